"""What is run in the servers' environment: small programs that print one line of JSON.

`python inside.py models FOLDER`, `bare FOLDER REQUESTS`, `load FOLDER`, `passes FOLDER REQUESTS [TOOLKIT]`,
`generate FOLDER REQUESTS`.
"""

import json
import random
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NEW_TOKENS = 32
# What every release reads alike.
TOKENIZER = {
    "tokenizer_class": "DistilBertTokenizer",
    "do_lower_case": True,
    "model_max_length": 512,
    "model_input_names": ["input_ids", "attention_mask"],
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}


def vocabulary_of() -> list[str]:
    """As many words as DistilBERT has tokens, so that a word is a token."""
    chance = random.Random(0)
    made: dict[str, None] = {}
    while len(made) < 30522 - len(SPECIAL):
        made["".join(chance.choices(LETTERS, k=chance.randint(3, 9)))] = None
    return list(made)


def models(folder: Path) -> dict[str, Any]:
    """Random weights shaped as DistilBERT, as a model that costs nothing, and as GPT-2; and requests."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    vocabulary = vocabulary_of()
    base = t.DistilBertConfig(num_labels=2)
    tiny = t.DistilBertConfig(dim=64, hidden_dim=128, n_layers=2, n_heads=2, num_labels=2)
    made = {
        "base": t.DistilBertForSequenceClassification(base),
        "tiny": t.DistilBertForSequenceClassification(tiny),
        "writer": t.GPT2LMHeadModel(t.GPT2Config(vocab_size=30522, bos_token_id=2, eos_token_id=3)),
    }
    for name, model in made.items():
        model.save_pretrained(folder / name)
        (folder / name / "vocab.txt").write_text("\n".join([*SPECIAL, *vocabulary]) + "\n")
        t.BertTokenizerFast(str(folder / name / "vocab.txt")).save_pretrained(folder / name)
        (folder / name / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    chance = random.Random(1)
    texts = [" ".join(chance.choices(vocabulary, k=chance.randint(4, 96))) for _ in range(512)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"inputs": text}) + "\n" for text in texts))
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    long = [text.split()[:16] for text in texts if len(text.split()) >= 16]
    asked = [{"inputs": " ".join(words), "parameters": options} for words in long]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    return {}


def _texts(file: str) -> list[str]:
    return [json.loads(line)["inputs"] for line in Path(file).read_text().splitlines()]


def _resident() -> float:
    """Megabytes in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def load(folder: Path) -> dict[str, Any]:
    """Import transformers and load the pipeline: the time when that was done."""
    from transformers import pipeline

    pipeline("text-classification", model=str(folder), device=-1)
    return {"at": time.time()}


def bare(folder: Path, requests: str) -> dict[str, Any]:
    """The pipeline, a text at a time: its median in milliseconds, and memory afterwards."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(folder), device=-1)
    took = []
    for text in _texts(requests):
        began = time.perf_counter()
        classify(text)
        took.append(time.perf_counter() - began)
    return {"median": statistics.median(took[20:]) * 1e3, "megabytes": _resident()}


def passes(folder: Path, requests: str, toolkit: str = "") -> dict[str, Any]:
    """The forward pass alone, texts sorted by length, in the best of several group sizes: texts a second.

    With a folder of our toolkit the model's products are those that our server takes.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    if toolkit:
        sys.path.insert(0, toolkit)
        from hf_inference_toolkit.runtimes.kernels import enable_onednn

        enable_onednn(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = sorted(_texts(requests)[:256], key=lambda text: len(text.split()))
    found = {}
    for size in (1, 4, 8, 16, 32):
        groups = [texts[start : start + size] for start in range(0, len(texts), size)]
        inputs = [tokenizer(group, padding=True, return_tensors="pt") for group in groups]
        with torch.inference_mode():
            model(**inputs[0])
            began = time.perf_counter()
            for one in inputs:
                model(**one)
        found[size] = len(texts) / (time.perf_counter() - began)
    return {"sizes": found, "best": max(found.values())}


def generate(folder: Path, requests: str) -> dict[str, Any]:
    """Prompts written on one by one: tokens a second."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    began = 0.0
    prompts = _texts(requests)[:9]
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        with torch.inference_mode():
            model.generate(**inputs, **options, pad_token_id=0)
        # The first one warms up.
        began = began or time.perf_counter()
    return {"tokens": NEW_TOKENS * (len(prompts) - 1) / (time.perf_counter() - began)}


if __name__ == "__main__":
    name, folder, *more = sys.argv[1:]
    print(json.dumps(globals()[name](Path(folder), *more)))
