"""Trains a small BERT, made from its configuration, to tell what a sentence is about: Keras."""

import argparse
import csv
import json
import os

import numpy
import tensorflow
from transformers import BertConfig, BertTokenizerFast, TFBertForSequenceClassification

try:
    import tf_keras as keras  # what transformers uses beside Keras 3
except ImportError:
    from tensorflow import keras

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


def encoded(tokenizer, texts):
    """What the model takes, as arrays."""
    rows = tokenizer(texts, truncation=True, padding="max_length", max_length=32)
    return {name: numpy.array(rows[name]) for name in ("input_ids", "attention_mask")}


def main():
    """Train, test, and keep the model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--accuracy", type=float, default=0.75, help="fail below it")
    arguments = parser.parse_args()
    tensorflow.random.set_seed(1)
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
    model = TFBertForSequenceClassification(config)
    model.compile(
        optimizer=keras.optimizers.Adam(arguments.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    numbers = numpy.array([names.index(topic) for topic in topics])
    model.fit(encoded(tokenizer, texts), numbers, batch_size=16, epochs=arguments.epochs, verbose=2)
    predicted = numpy.array(model(encoded(tokenizer, unseen), training=False)[0]).argmax(axis=-1)
    accuracy = float((predicted == numpy.array([names.index(topic) for topic in true])).mean())
    print(f"accuracy on {len(unseen)} unseen sentences: {accuracy:.3f}", flush=True)
    with open(os.path.join(os.environ["SM_OUTPUT_DATA_DIR"], "metrics.json"), "w") as file:
        json.dump({"accuracy": accuracy}, file)
    if accuracy < arguments.accuracy:
        raise SystemExit(f"accuracy {accuracy:.3f} is below {arguments.accuracy}")
    model.save_pretrained(os.environ["SM_MODEL_DIR"])
    tokenizer.save_pretrained(os.environ["SM_MODEL_DIR"])


if __name__ == "__main__":
    main()
