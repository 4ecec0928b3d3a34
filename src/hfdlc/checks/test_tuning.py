"""Checks of the libraries for fine-tuning, for images with the layer group `tuning`."""

import json

from hfdlc.checks.subject import Subject
from hfdlc.checks.test_inference import TOKENIZER

# A base model, which an adapter is trained for on conversations; losses go to TensorBoard's files.
SFT = """
import json, os, tempfile, torch
from datasets import Dataset
from peft import LoraConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer
words = {word: number for number, word in enumerate(["<pad>", "<eos>", "what", "works", "container"])}
model = Tokenizer(WordLevel(words, unk_token="<eos>"))
model.pre_tokenizer = Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", eos_token="<eos>")
tokenizer.chat_template = "{% for each in messages %}{{ each.content }} <eos> {% endfor %}"
torch.manual_seed(0)
base = LlamaForCausalLM(LlamaConfig(
    vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    pad_token_id=0, bos_token_id=None, eos_token_id=1,
))
said = [{"role": "user", "content": "what works"}, {"role": "assistant", "content": "container"}]
with tempfile.TemporaryDirectory() as folder:
    os.environ["TENSORBOARD_LOGGING_DIR"] = folder
    trainer = SFTTrainer(
        base,
        SFTConfig(
            folder, max_steps=8, per_device_train_batch_size=2, learning_rate=0.1, logging_steps=1,
            bf16=False, use_cpu=True, save_strategy="no", report_to="tensorboard", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"messages": said}] * 16),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear"),
    )
    trainer.train()
    trainer.save_model(folder)
    events = EventAccumulator(folder).Reload()
    with open(folder + "/adapter_config.json") as file:
        kind = json.load(file)["peft_type"]
losses = [event.value for event in events.Scalars("train/loss")]
print(json.dumps([kind, len(losses), losses[-1] < losses[0]]))
"""
SENTENCES = f"""
import tempfile, torch
folder = tempfile.mkdtemp()
{TOKENIZER}
from transformers import BertModel
BertModel(config).save_pretrained(folder)
from sentence_transformers import SentenceTransformer
from sentence_transformers.losses import CosineSimilarityLoss
model = SentenceTransformer(folder, device="cpu")
loss = CosineSimilarityLoss(model)
texts = [model.preprocess([text]) for text in ("a container", "a container works")]
no = torch.tensor([0.0])
before = loss(texts, no)
before.backward()
torch.optim.SGD(model.parameters(), lr=0.1).step()
print(json.dumps([list(model.encode(["a container"]).shape), bool(loss(texts, no) < before)]))
"""


def test_sft_makes_an_adapter(subject: Subject) -> None:
    """TRL lowers the loss with LoRA and writes the adapter, and TensorBoard has each step's loss."""
    assert json.loads(subject.python(SFT).splitlines()[-1]) == ["LORA", 8, True]


def test_trl_has_its_command(subject: Subject) -> None:
    """The program that `sft.sh` of the examples calls."""
    assert "sft" in subject.host.check_output("trl --help")


def test_sentence_model_is_trained(subject: Subject) -> None:
    """A step of sentence-transformers lowers the loss."""
    assert json.loads(subject.python(SENTENCES).splitlines()[-1]) == [[1, 32], True]
