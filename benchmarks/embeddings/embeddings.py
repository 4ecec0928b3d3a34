"""Embeddings compared with infinity-emb, bare passes and `SentenceTransformer.encode`, on the same cores.

`make bench-embeddings`: one run. The rate of a server is its best of several rounds. The model is
all-MiniLM-L6-v2 with its real weights, in float32.
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
            content = answer.read()
            seconds.append(time.perf_counter() - began)
            vectors = json.loads(content)
            if answer.status != 200 or len(vectors["data"]) != LIST:
                raise RuntimeError(f"{answer.status} at {server.url}: {str(vectors)[:500]}")
    return LIST / statistics.median(seconds[1:])


def main() -> int:
    """Measure and print the table; 1 where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="of 32 clients, for each server and round")
    parser.add_argument("--rounds", type=int, default=3, help="how often each server is measured in turn")
    parser.add_argument("--lists", type=int, default=3, help="how often the list is sent in a round")
    chosen, state = parser.parse_args(), State.of(os.environ)
    weights = real_weights(state, os.environ)
    python, wrk = place.server(state), place.wrk(state)
    references = place.with_packages(state, "bench-embeddings/references", REFERENCES)
    infinity = place.peer("infinity", state)
    assert infinity
    described = machine()
    print(f"{described['processor']}, {described['cores']} cores", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="bench-embeddings-", dir=state.folder("tmp")) as work:
        folder = Path(work)
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

        with contextlib.ExitStack() as stack:

            def mine(**settings: str) -> Running:
                own = shutil.copytree(model, folder / "-".join(("own", *settings.values())))
                server = stack.enter_context(servers.ours(python, own, folder, **settings))
                print(f"served by {servers.runtime(server)}", file=sys.stderr)
                return replace(server, url=server.url.replace("/invocations", "/v1/embeddings"))

            running = {"ours": mine(), "ours on PyTorch": mine(HF_RUNTIME="torch")}
            for batch in BATCHES:
                other = stack.enter_context(servers.infinity(infinity, model, folder, batch))
                running[f"infinity-emb, batches of {batch}"] = other
            # Other work on a shared machine slows a single measurement, so the servers are measured in turn.
            rates: dict[str, float] = {}
            lists: dict[str, float] = {}
            for _ in range(chosen.rounds):
                for name, server in running.items():
                    load = press(wrk, server, texts, CLIENTS, chosen.seconds)
                    print(f"{name}: {load.rate:.1f} requests/s, p99 {load.p99:.0f} ms", file=sys.stderr)
                    rates[name] = max(rates.get(name, 0), load.rate)
                    if name.startswith("ours"):
                        rate = rate_of_lists(server, body, chosen.lists)
                        print(f"{name}: {rate:.1f} texts/s of a list", file=sys.stderr)
                        lists[name] = max(lists.get(name, 0), rate)
        passes = {
            engine: bare("passes", model, texts, engine) for engine in ("onnxruntime", "openvino", "torch")
        }
        list_on_openvino = bare("lists", model, whole, "openvino")
        encoded = bare("lists", model, whole, "encode")
    ours, on_torch = rates.pop("ours"), rates.pop("ours on PyTorch")
    our_list, torch_list, theirs = lists["ours"], lists["ours on PyTorch"], list(rates.values())
    rows = [
        Row("MiniLM, 32 clients, requests/s by infinity-emb", ours, max(theirs), "", 1.5, False),
        Row("  by a bare ONNX Runtime pass", ours, passes["onnxruntime"], "", 0.9, False),
        Row("  by a bare OpenVINO pass", ours, passes["openvino"], "", None, False),
        Row("  on PyTorch, by a bare PyTorch pass", on_torch, passes["torch"], "", None, False),
        Row(f"a list of {LIST} on PyTorch, texts/s by encode", torch_list, encoded, "", 0.9, False),
        Row("  on OpenVINO, by bare sorted passes", our_list, list_on_openvino, "", 0.9, False),
    ]
    is_short = (chosen.seconds, chosen.rounds, chosen.lists) != (5, 3, 3)
    return report("embeddings", rows, keep=not is_short)


if __name__ == "__main__":
    sys.exit(main())
