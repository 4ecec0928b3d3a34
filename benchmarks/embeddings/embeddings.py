"""Embeddings compared with infinity-emb, bare passes and `SentenceTransformer.encode`, on the same cores.

`make bench-embeddings`: one run. The model is all-MiniLM-L6-v2 with its real weights, in float32.
"""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks/serving"), str(Path(__file__).parent)]

import place  # noqa: E402
import servers  # noqa: E402
from results import Row, machine, report  # noqa: E402
from servers import Running, press  # noqa: E402

from hfdlc.sagemaker.endpoint import real_weights  # noqa: E402
from hfdlc.state import State  # noqa: E402

# What the references need beside the packages of the image.
REFERENCES = (*place.REFERENCES, "sentence-transformers==6.2.0")
BARE = Path(__file__).with_name("bare.py")
CLIENTS = 32
# Texts of the long list.
LIST = 256
BATCHES = (8, 32)


def rate_of_lists(server: Running, body: bytes, times: int) -> float:
    """Texts a second of a list in one request: the median after a first one."""
    address, seconds = urllib.parse.urlsplit(server.url), []
    with contextlib.closing(http.client.HTTPConnection(address.netloc, timeout=300)) as connection:
        for _ in range(times + 1):
            began = time.perf_counter()
            connection.request("POST", address.path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            vectors = json.loads(answer.read())
            seconds.append(time.perf_counter() - began)
            if answer.status != 200 or len(vectors["data"]) != LIST:
                raise RuntimeError(f"{answer.status} at {server.url}: {str(vectors)[:500]}")
    return LIST / statistics.median(seconds[1:])


def main() -> int:
    """Measure and print the table; 1 where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=12, help="of 32 clients, for each server")
    parser.add_argument("--lists", type=int, default=5, help="how often the list is sent")
    chosen, state = parser.parse_args(), State.of(os.environ)
    weights = real_weights(state, os.environ)
    python, wrk = place.server(state), place.wrk(state)
    references = place.with_packages(state, "bench-embeddings/references", REFERENCES)
    infinity = place.peer("infinity", state)
    assert infinity
    described = machine()
    print(f"{described['processor']}, {described['cores']} cores", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="bench-embeddings-", dir=state.folder("tmp")) as name:
        folder = Path(name)
        model = shutil.copytree(weights, folder / "minilm")

        def bare(*words: str | Path) -> float:
            """The best rate of bare.py, in texts a second."""
            done = subprocess.run([references, BARE, *words], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(map(str, words))}\n{done.stderr[-2000:]}")
            line = done.stdout.splitlines()[-1]
            print(f"{words[0]} {words[-1]}: {line}", file=sys.stderr)
            return float(json.loads(line)["best"])

        bare("requests", model, folder)
        texts, whole = folder / "texts.jsonl", folder / "list.jsonl"
        body = whole.read_bytes().strip()

        def mine(**settings: str) -> tuple[float, float]:
            """Requests a second of 32 clients, and texts a second of lists."""
            own = shutil.copytree(model, folder / "own", dirs_exist_ok=True)
            with servers.ours(python, own, folder, **settings) as server:
                print(f"served by {servers.runtime(server)}", file=sys.stderr)
                server = replace(server, url=server.url.replace("/invocations", "/v1/embeddings"))
                load = press(wrk, server, texts, CLIENTS, chosen.seconds)
                print(
                    f"ours {settings or ''}: {load.rate:.1f} requests/s, p99 {load.p99:.0f} ms",
                    file=sys.stderr,
                )
                return load.rate, rate_of_lists(server, body, chosen.lists)

        ours, our_list = mine()
        on_torch, torch_list = mine(HF_RUNTIME="torch")
        theirs = []
        for batch in BATCHES:
            with servers.infinity(infinity, model, folder, batch) as server:
                theirs.append(press(wrk, server, texts, CLIENTS, chosen.seconds).rate)
            print(f"infinity-emb, batches of {batch}: {theirs[-1]:.1f} requests/s", file=sys.stderr)
        passes = {
            engine: bare("passes", model, texts, engine) for engine in ("onnxruntime", "openvino", "torch")
        }
        list_on_openvino = bare("lists", model, whole, "openvino")
        encoded = bare("lists", model, whole, "encode")
    rows = [
        Row("MiniLM, 32 clients, requests/s by infinity-emb", ours, max(theirs), "", 1.5, False),
        Row("  by a bare ONNX Runtime pass", ours, passes["onnxruntime"], "", 0.9, False),
        Row("  by a bare OpenVINO pass", ours, passes["openvino"], "", None, False),
        Row("  on PyTorch, by a bare PyTorch pass", on_torch, passes["torch"], "", None, False),
        Row(f"a list of {LIST} on PyTorch, texts/s by encode", torch_list, encoded, "", 0.9, False),
        Row("  on OpenVINO, by bare sorted passes", our_list, list_on_openvino, "", 0.9, False),
    ]
    is_short = (chosen.seconds, chosen.lists) != (12, 5)
    return report("embeddings", rows, keep=not is_short)


if __name__ == "__main__":
    sys.exit(main())
