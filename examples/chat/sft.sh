#!/bin/sh
# `trl sft` as the program of a job on one host, with all its GPUs. Each hyperparameter is an option of `trl sft`. The
# channel `base` has the model, `training` has conversations. An adapter (use_peft=true) is saved beside its base.
set -eu
case $SM_HOSTS in
*,*)
    echo "sft.sh is for one host; sft.py has the same options and trains on several" >&2
    exit 1
    ;;
esac
if [ "$SM_NUM_GPUS" -eq 0 ]; then
    set -- --bf16 false "$@"
fi
trl sft --model_name_or_path "$SM_CHANNEL_BASE" --dataset_name "$SM_CHANNEL_TRAINING" \
    --output_dir "$SM_MODEL_DIR" --save_strategy no --report_to none "$@"
if [ -e "$SM_MODEL_DIR/adapter_config.json" ]; then
    cp -R "$SM_CHANNEL_BASE" "$SM_MODEL_DIR/base"
fi
