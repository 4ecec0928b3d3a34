"""Serving and text generation on the GPU of this machine, compared with PyTorch alone.

Run by `tools/gpu_check.sh`, in a Python that has PyTorch, transformers and what the toolkit needs. Nothing is
downloaded: weights are random, and the clients are threads of this program.
"""

import contextlib
import http.client
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(Path(__file__).parent)]

import inside  # noqa: E402
import servers  # noqa: E402
from inside import NEW_TOKENS, WINDOW  # noqa: E402
from results import Row, report  # noqa: E402

PATHS = ":".join([str(ROOT / "toolkit/src"), *sys.path])  # the packages of this Python, wherever they are
SECONDS = 8
CLIENTS, WRITERS = 32, 16
TEXTS = 512  # of a bare pass
PROMPTS = 8


def pressed(server: servers.Running, requests: Path, clients: int, seconds: float) -> float:
    """Requests a second that so many clients get answered; the first half of the time is a warm-up."""
    address = urllib.parse.urlsplit(server.url)
    bodies = requests.read_bytes().splitlines()
    began = time.perf_counter()
    done = [0] * clients
    problems: list[str] = []

    def client(number: int) -> None:
        with contextlib.closing(http.client.HTTPConnection(address.netloc, timeout=120)) as connection:
            at = number
            while time.perf_counter() < began + seconds and not problems:
                body = bodies[at % len(bodies)]
                connection.request("POST", address.path, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
                if answer.status != 200:
                    problems.append(f"{answer.status} {content[:200]!r}")
                at += clients
                done[number] += time.perf_counter() > began + seconds / 2

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise RuntimeError(f"{server.url}: {problems[0]}")
    return sum(done) / (seconds / 2)


def passes(folder: Path, requests: Path, dtype: str, device: str) -> float:
    """Texts a second of bare passes over windows of 32 sorted by length, tokenization included."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = (
        AutoModelForSequenceClassification.from_pretrained(folder).to(device, getattr(torch, dtype)).eval()
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = inside._inputs(str(requests))[:TEXTS]
    best = 0.0
    for _ in range(2):  # the first time, kernels are loaded
        began = time.perf_counter()
        for start in range(0, len(texts), WINDOW):
            window = sorted(texts[start : start + WINDOW], key=len)
            inputs = tokenizer(window, padding=True, return_tensors="pt").to(device)
            with torch.inference_mode():
                model(**inputs).logits.cpu()
        best = max(best, len(texts) / (time.perf_counter() - began))
    return best


def generated(folder: Path, requests: Path, device: str) -> float:
    """Tokens a second of `generate`, one prompt after the other."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    began = 0.0
    for prompt in inside._inputs(str(requests))[: PROMPTS + 1]:
        inputs = tokenizer(prompt, return_tensors="pt").to(device)
        inputs.pop("token_type_ids", None)
        with torch.inference_mode():
            model.generate(**inputs, **options, pad_token_id=0)
        began = began or time.perf_counter()  # the first one warms up
    return NEW_TOKENS * PROMPTS / (time.perf_counter() - began)


def main() -> int:
    """Print the table."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    python, rows = Path(sys.executable), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inside.models(folder, "base", "writer")
        texts, prompts = folder / "texts.jsonl", folder / "prompts.jsonl"
        for dtype in ("float32", "bfloat16"):
            ours = {"HF_TASK": "text-classification", "HF_DTYPE": dtype, "PYTHONPATH": PATHS}
            with servers.ours(python, folder / "base", folder, **ours) as server:
                rate = pressed(server, texts, CLIENTS, SECONDS)
            bare = passes(folder / "base", texts, dtype, device)
            work = f"{device}, {dtype}: texts/s of {CLIENTS} clients, bare passes"
            rows.append(Row(work, rate, bare, "", None))
        ours = {"HF_TASK": "text-generation", "PYTHONPATH": PATHS}
        with servers.ours(python, folder / "writer", folder, **ours) as server:
            rate = NEW_TOKENS * pressed(server, prompts, WRITERS, SECONDS)
        alone = generated(folder / "writer", prompts, device)
        work = f"{device}, generation: tokens/s of {WRITERS} clients, one after the other"
        rows.append(Row(work, rate, alone, "", None))
    return report("gpu", rows, keep=False)


if __name__ == "__main__":
    sys.exit(main())
