"""Trains a small BERT to tell good from bad, with all processes of all hosts, and writes who took part."""

import json
import os
from pathlib import Path

import torch
from torch import distributed
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

MODEL = Path(os.environ["SM_MODEL_DIR"])
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def main():
    rows = json.loads(Path(os.environ["SM_CHANNEL_TRAINING"], "texts.json").read_text(encoding="utf-8"))
    together = "RANK" in os.environ
    if together:
        distributed.init_process_group("gloo")
    rank, size = (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
    torch.manual_seed(1)
    words = sorted({word for text, _ in rows for word in text.split()})
    folder = MODEL if rank == 0 else Path("tokenizer")  # hosts share the folder of the model in local mode
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + words) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast.from_pretrained(str(folder), model_max_length=16)
    labels = sorted({label for _, label in rows})
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32, id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    trained = torch.nn.parallel.DistributedDataParallel(model) if together else model
    own = rows[rank::size]
    batch = tokenizer([text for text, _ in own], padding=True, return_tensors="pt")
    batch["labels"] = torch.tensor([labels.index(label) for _, label in own])
    optimizer = torch.optim.AdamW(trained.parameters(), lr=5e-3)
    for _ in range(30):
        loss = trained(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    hosts = [os.environ["SM_CURRENT_HOST"]]
    if together:
        hosts = [None] * size
        distributed.all_gather_object(hosts, os.environ["SM_CURRENT_HOST"])
    print("loss", loss.item(), "of", rank, "on", hosts, flush=True)
    if rank == 0:
        model.save_pretrained(MODEL)
        tokenizer.save_pretrained(MODEL)
        (MODEL / "hosts.json").write_text(json.dumps(hosts), encoding="utf-8")


if __name__ == "__main__":
    main()
