"""Trains a small BERT, made from its configuration, to tell what a sentence is about: Trainer."""

import argparse
import csv
import hashlib
import json
import os

import numpy
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

CHECKPOINTS = "/opt/ml/checkpoints"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def read(name):
    """The sentences and labels of a file of the channel."""
    with open(os.path.join(os.environ["SM_CHANNEL_TRAINING"], name), newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def tokenizer_of(texts):
    """A tokenizer that knows the words of the texts, and no others."""
    words = sorted({word for text in texts for word in text.lower().split()})
    with open(os.path.join(os.environ["SM_MODEL_DIR"], "vocab.txt"), "w") as file:
        file.write("\n".join(SPECIAL + words) + "\n")
    return BertTokenizerFast.from_pretrained(os.environ["SM_MODEL_DIR"], model_max_length=32)


class Sentences(torch.utils.data.Dataset):
    """Encoded sentences with the numbers of their labels."""

    def __init__(self, tokenizer, texts, labels):
        self.encoded = tokenizer(texts, truncation=True, padding="max_length", max_length=32)
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        row = {name: torch.tensor(values[index]) for name, values in self.encoded.items()}
        row["labels"] = torch.tensor(self.labels[index])
        return row


def digests(folder):
    """The SHA-256 of each file of a folder, except the list of them."""
    found = {}
    for name in sorted(set(os.listdir(folder)) - {"complete.json", "complete.json.part"}):
        with open(os.path.join(folder, name), "rb") as file:
            found[name] = hashlib.sha256(file.read()).hexdigest()
    return found


class ListFiles(TrainerCallback):
    """Marks a checkpoint as complete, with the list of its files, when all of them are written."""

    def on_save(self, args, state, *_, **__):
        if state.is_world_process_zero:
            folder = os.path.join(args.output_dir, "checkpoint-{}".format(state.global_step))
            files = digests(folder)
            with open(os.path.join(folder, "complete.json.part"), "w") as file:
                json.dump(files, file)
            os.replace(file.name, os.path.join(folder, "complete.json"))


def newest_checkpoint():
    """The newest complete checkpoint, or None; what a killed job left half written is skipped."""
    names = [name for name in os.listdir(CHECKPOINTS) if name.startswith("checkpoint-")]
    for name in sorted(names, key=lambda name: -int(name.rpartition("-")[2])):
        folder = os.path.join(CHECKPOINTS, name)
        try:
            with open(os.path.join(folder, "complete.json")) as file:
                if json.load(file) == digests(folder):
                    print("resuming from", folder, flush=True)
                    return folder
        except (OSError, ValueError):
            pass
        print("skipping the damaged", folder, flush=True)
    return None


def main():
    """Train, test, and keep the model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--accuracy", type=float, default=0.75, help="fail below it")
    arguments = parser.parse_args()
    set_seed(1)
    texts, topics = read("train.csv")
    unseen, true = read("test.csv")
    names = sorted(set(topics))
    tokenizer = tokenizer_of(texts)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    trainer = Trainer(
        model=BertForSequenceClassification(config),
        args=TrainingArguments(
            output_dir=CHECKPOINTS,
            num_train_epochs=arguments.epochs,
            learning_rate=arguments.learning_rate,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=64,
            logging_steps=12,
            save_strategy="epoch",
            save_total_limit=2,
            report_to=[],
        ),
        train_dataset=Sentences(tokenizer, texts, [names.index(topic) for topic in topics]),
        callbacks=[ListFiles()],
    )
    trainer.train(resume_from_checkpoint=newest_checkpoint())
    numbers = [names.index(topic) for topic in true]
    predicted = trainer.predict(Sentences(tokenizer, unseen, numbers)).predictions.argmax(axis=-1)
    accuracy = float((predicted == numpy.array(numbers)).mean())
    print(f"accuracy on {len(unseen)} unseen sentences: {accuracy:.3f}", flush=True)
    with open(os.path.join(os.environ["SM_OUTPUT_DATA_DIR"], "metrics.json"), "w") as file:
        json.dump({"accuracy": accuracy}, file)
    if accuracy < arguments.accuracy:
        raise SystemExit(f"accuracy {accuracy:.3f} is below {arguments.accuracy}")
    trainer.save_model(os.environ["SM_MODEL_DIR"])
    tokenizer.save_pretrained(os.environ["SM_MODEL_DIR"])


if __name__ == "__main__":
    main()
