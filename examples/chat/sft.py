"""Fine-tunes a chat model on any number of hosts, where torchrun starts it, with the options of `trl sft`.

The channel `base` has the model, `training` conversations. An adapter (use_peft=true) is saved beside it.
"""

import os
import shutil
import sys
import time

from datasets import load_dataset
from trl import SFTTrainer, get_peft_config
from trl.scripts.sft import make_parser


def main():
    folder, base = os.environ["SM_MODEL_DIR"], os.environ["SM_CHANNEL_BASE"]
    ours = [
        "--model_name_or_path",
        base,
        "--output_dir",
        folder,
        "--save_strategy",
        "no",
        "--report_to",
        "none",
    ]
    if os.environ["SM_NUM_GPUS"] == "0":
        ours += ["--bf16", "false"]
    _, arguments, model, _ = make_parser().parse_args_and_config(ours + sys.argv[1:])
    trainer = SFTTrainer(
        model.model_name_or_path,
        args=arguments,
        train_dataset=load_dataset(os.environ["SM_CHANNEL_TRAINING"], split="train"),
        peft_config=get_peft_config(model),
    )
    trainer.train()
    trainer.save_model()
    if trainer.is_world_process_zero() and model.use_peft:
        shutil.copytree(base, os.path.join(folder, "base"))
    trainer.accelerator.wait_for_everyone()
    # Threads of gloo still release tensors, which deadlocks with the end of the process group on CPUs
    # (https://github.com/pytorch/pytorch/issues/56297).
    time.sleep(0.1)


if __name__ == "__main__":
    main()
