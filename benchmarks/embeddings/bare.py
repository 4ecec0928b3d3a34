"""What is run in the environment of the references: small programs that print one line of JSON.

`python bare.py requests MODEL FOLDER`, `passes MODEL REQUESTS ENGINE`, `lists MODEL REQUESTS ENGINE`.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

import inside

TEXTS = 512
LIST = 256
PASSES = 128  # texts of a bare pass
WINDOW = 32  # as many requests as there are clients
TIMES = 3
# Computes the vectors of texts that share a pass.
Run = Callable[[Sequence[str]], Any]


def requests(model: Path, folder: str) -> dict[str, float]:
    """Bodies in OpenAI's form, one a line: texts of 4 to 96 words, and a list of them."""
    chance = random.Random(1)
    lines = (model / "vocab.txt").read_text().splitlines()
    words = [word for word in lines if word.isalpha() and len(word) > 2]
    texts = [" ".join(chance.choices(words, k=chance.randint(4, 96))) for _ in range(TEXTS)]
    inputs: dict[str, list[Any]] = {"texts": [*texts], "list": [texts[:LIST]]}
    for name, several in inputs.items():
        lines = [json.dumps({"model": "minilm", "input": one}) for one in several]
        Path(folder, f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return {"best": 0.0}


def _inputs(file: str) -> list[Any]:
    return [json.loads(line)["input"] for line in Path(file).read_text().splitlines()]


def _run(model: Path, engine: str) -> Run:
    """Tokenization, a pass, the mean of each text's tokens, and normalization."""
    import numpy
    import torch
    from transformers import AutoModel, AutoTokenizer

    class Encoder(torch.nn.Module):  # type: ignore[misc]
        """Exporters need the names of the inputs."""

        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(model, add_pooling_layer=False)

        def forward(self, input_ids: Any, token_type_ids: Any, attention_mask: Any) -> tuple[Any]:
            named = {"token_type_ids": token_type_ids, "attention_mask": attention_mask}
            return (self.model(input_ids=input_ids, **named).last_hidden_state,)

    loaded = Encoder().eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    example = dict(tokenizer(["one text", "two"], padding=True, return_tensors="pt"))
    making: dict[str, Callable[[], Callable[[Mapping[str, Any]], Any]]] = {
        "torch": lambda: inside._torch(loaded, "float32"),
        "onnxruntime": lambda: inside._onnxruntime(loaded, example),
        "openvino": lambda: inside._openvino(loaded, example, "float32"),
    }
    forward = making[engine]()

    def run(texts: Sequence[str]) -> Any:
        form = "pt" if engine == "torch" else "np"
        found = tokenizer(list(texts), padding=True, truncation=True, max_length=256, return_tensors=form)
        hidden, mask = forward(found)[0], found["attention_mask"][..., None]
        if engine == "torch":
            return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
        means = (hidden * mask).sum(1) / mask.sum(1)
        return means / numpy.linalg.norm(means, axis=1, keepdims=True)

    return run


def _by_size(
    run: Run, texts: Sequence[str], window: int, sizes: Sequence[int], times: int
) -> dict[str, float]:
    """Texts a second in windows that are sorted by length and divided into groups of several sizes."""
    found: dict[str, float] = {}
    for size in sizes:
        best = 0.0
        # The first time, the engine plans its shapes.
        for _ in range(times):
            began = time.perf_counter()
            for start in range(0, len(texts), window):
                alike = sorted(texts[start : start + window], key=lambda text: len(text.split()))
                for first in range(0, len(alike), size):
                    run(alike[first : first + size])
            best = max(best, len(texts) / (time.perf_counter() - began))
        found[str(size)] = round(best, 1)
    return {**found, "best": max(found.values())}


def passes(model: Path, file: str, engine: str) -> dict[str, float]:
    """Texts that come in windows of 32."""
    return _by_size(_run(model, engine), _inputs(file)[:PASSES], WINDOW, (1, 4, 8, 16, 32), 2)


def lists(model: Path, file: str, engine: str) -> dict[str, float]:
    """A list of texts; `encode` is SentenceTransformer's, which sorts them itself."""
    (texts,) = _inputs(file)
    sizes = (8, 16, 32, 64)
    if engine != "encode":
        return _by_size(_run(model, engine), texts, len(texts), sizes, TIMES)
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), device="cpu")
    found: dict[str, float] = {}
    for size in sizes:
        best = 0.0
        for _ in range(TIMES):
            began = time.perf_counter()
            encoder.encode(texts, batch_size=size, show_progress_bar=False)
            best = max(best, len(texts) / (time.perf_counter() - began))
        found[str(size)] = round(best, 1)
    return {**found, "best": max(found.values())}


if __name__ == "__main__":
    name, folder, *more = sys.argv[1:]
    print(json.dumps(globals()[name](Path(folder), *more)))
