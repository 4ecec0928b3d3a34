"""What is run in the servers' environments: small programs that print one line of JSON.

`python inside.py models FOLDER [NAME...]`, `load MODEL`, `bare MODEL REQUESTS`, `generate MODEL REQUESTS`,
`images MODEL REQUESTS DTYPE`, `passes MODEL REQUESTS ENGINE DTYPE`.
"""

import base64
import io
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NEW_TOKENS = 32
WINDOW = 32  # as many requests as there are clients
PASSES = 128  # texts of a bare pass
SHAPES = 2000
BATCH = 8  # images of the bare pipeline
# What every release reads alike.
TOKENIZER = {
    "tokenizer_class": "DistilBertTokenizer",
    "do_lower_case": True,
    "model_max_length": 512,
    "model_input_names": ["input_ids", "attention_mask"],
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}
Run = Callable[[Mapping[str, Any]], Any]


def vocabulary_of() -> list[str]:
    """As many words as DistilBERT has tokens, so that a word is a token."""
    chance = random.Random(0)
    made: dict[str, None] = {}
    while len(made) < 30522 - len(SPECIAL):
        made["".join(chance.choices(LETTERS, k=chance.randint(3, 9)))] = None
    return list(made)


def models(folder: Path, *names: str) -> dict[str, Any]:
    """Random weights, and requests.

    `base` has the shape of DistilBERT, `tiny` costs nothing, `writer` is GPT-2, `embedder` is MiniLM,
    `vision` is ViT of base size.
    """
    import torch
    import transformers as t

    torch.manual_seed(0)
    vocabulary = vocabulary_of()
    tiny = {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 2}
    minilm = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
    making: dict[str, Callable[[], Any]] = {
        "base": lambda: t.DistilBertForSequenceClassification(t.DistilBertConfig(num_labels=2)),
        "tiny": lambda: t.DistilBertForSequenceClassification(t.DistilBertConfig(**tiny, num_labels=2)),
        "writer": lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=30522, bos_token_id=2, eos_token_id=3)),
        "embedder": lambda: t.BertModel(t.BertConfig(**minilm, intermediate_size=1536)),
        "vision": lambda: t.ViTForImageClassification(t.ViTConfig(num_labels=10)),
    }
    for name in names or making:
        making[name]().save_pretrained(folder / name)
        if name == "vision":
            processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}}
            (folder / name / "preprocessor_config.json").write_text(json.dumps(processor))
            continue
        (folder / name / "vocab.txt").write_text("\n".join([*SPECIAL, *vocabulary]) + "\n")
        t.BertTokenizerFast(str(folder / name / "vocab.txt")).save_pretrained(folder / name)
        (folder / name / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    _requests(folder, vocabulary)
    return {}


def _requests(folder: Path, vocabulary: list[str]) -> None:
    """Bodies, one a line."""
    chance = random.Random(1)
    texts = [" ".join(chance.choices(vocabulary, k=chance.randint(4, 96))) for _ in range(512)]
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    long = [text.split()[:16] for text in texts if len(text.split()) >= 16]
    shapes = sorted((rows * words, rows, words) for rows in range(1, 65) for words in range(1, 505))[:SHAPES]
    chance.shuffle(shapes)
    files: dict[str, list[dict[str, Any]]] = {
        "texts": [{"inputs": text} for text in texts],
        "openai": [{"model": "embedder", "input": text} for text in texts],
        "prompts": [{"inputs": " ".join(words), "parameters": options} for words in long],
        "shapes": [
            {"inputs": [" ".join(chance.choices(vocabulary, k=words)) for _ in range(rows)]}
            for _, rows, words in shapes
        ],
        "images": [{"inputs": _image(chance)} for _ in range(32)],
    }
    for name, bodies in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(body) + "\n" for body in bodies))


def _image(chance: random.Random) -> str:
    """A JPEG of 320 by 240, in base64."""
    from PIL import Image

    noise = Image.frombytes("RGB", (32, 24), chance.randbytes(32 * 24 * 3)).resize((320, 240))
    file = io.BytesIO()
    noise.save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


def _inputs(file: str) -> list[Any]:
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
    """The pipeline, a text at a time: its median in milliseconds, memory afterwards, and weights (MB)."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(folder), device=-1)
    took = []
    for text in _inputs(requests)[:320]:
        began = time.perf_counter()
        classify(text)
        took.append(time.perf_counter() - began)
    weights = sum(each.numel() for each in classify.model.parameters()) * 4 / 1e6
    return {"median": statistics.median(took[20:]) * 1e3, "megabytes": _resident(), "weights": weights}


def images(folder: Path, requests: str, dtype: str) -> dict[str, Any]:
    """The pipeline over images in batches, decoding included: images a second."""
    import torch
    from PIL import Image
    from transformers import pipeline

    classify = pipeline("image-classification", model=str(folder), device=-1, dtype=getattr(torch, dtype))

    def all_of(bodies: list[str]) -> None:
        opened = [Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB") for body in bodies]
        classify(opened, batch_size=BATCH)

    bodies = _inputs(requests)
    all_of(bodies[:BATCH])
    began = time.perf_counter()
    all_of(bodies)
    return {"rate": len(bodies) / (time.perf_counter() - began)}


def passes(folder: Path, requests: str, engine: str, dtype: str) -> dict[str, Any]:
    """Texts a second without a server: tokenization and forward passes, in the best of several group sizes.

    The texts come in windows of 32; each window is sorted by length and divided into groups.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = _inputs(requests)[:PASSES]
    example = dict(tokenizer(texts[:2], padding=True, return_tensors="pt"))
    making = {
        "torch": lambda: _torch(model, dtype),
        "onnxruntime": lambda: _onnxruntime(model, example),
        "openvino": lambda: _openvino(model, example, dtype),
    }
    run = making[engine]()
    form = "pt" if engine == "torch" else "np"
    found = {}
    for size in (1, 4, 8, 16, 32):
        best = 0.0
        # The first time, the engine plans its shapes.
        for _ in range(2):
            began = time.perf_counter()
            for start in range(0, len(texts), WINDOW):
                window = sorted(texts[start : start + WINDOW], key=lambda text: len(text.split()))
                for first in range(0, len(window), size):
                    run(tokenizer(window[first : first + size], padding=True, return_tensors=form))
            best = max(best, len(texts) / (time.perf_counter() - began))
        found[size] = best
    return {"sizes": found, "best": max(found.values())}


def _torch(model: Any, dtype: str) -> Run:
    import torch

    model = model.to(getattr(torch, dtype))

    def run(inputs: Mapping[str, Any]) -> Any:
        with torch.inference_mode():
            return model(**inputs)

    return run


def _onnxruntime(model: Any, example: dict[str, Any]) -> Run:
    """By way of an ONNX file; float32 only."""
    import onnxruntime
    import torch

    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/model.onnx"
        axes = {name: {0: "rows", 1: "tokens"} for name in example}
        names = {"input_names": list(example), "output_names": ["logits"], "dynamic_axes": axes}
        torch.onnx.export(model, (), file, kwargs=example, **names, dynamo=False)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(inputs))


def _openvino(model: Any, example: dict[str, Any], dtype: str) -> Run:
    import openvino

    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": {"float32": "f32"}.get(dtype, "bf16")}
    compiled = openvino.compile_model(openvino.convert_model(model, example_input=example), "CPU", hints)
    return lambda inputs: compiled(dict(inputs))


def generate(folder: Path, requests: str) -> dict[str, Any]:
    """Prompts written on one by one: tokens a second."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    began = 0.0
    prompts = list(islice(_inputs(requests), 9))
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
