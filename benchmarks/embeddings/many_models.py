"""Copies of DistilBERT base on one multi-model endpoint, compared with one of them alone in a server.

Part of `make bench-embeddings`: one run, on the same cores.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks/serving")]

import place  # noqa: E402
import servers  # noqa: E402
from results import Row, report  # noqa: E402
from servers import Load, Running, press  # noqa: E402

from hfdlc.state import State  # noqa: E402

INSIDE = ROOT / "benchmarks/serving/inside.py"
COPIES = 20
CLIENTS, CLIENTS_OF_ONE = 32, 2
SECONDS = 12
# Of both servers: 20 conversions to OpenVINO would take longer than everything else.
RUNTIME = "torch"


def load_model(server: Running, name: str, folder: Path) -> None:
    """Load a model from a folder."""
    body = json.dumps({"model_name": name, "url": str(folder)}).encode()
    address = urllib.parse.urljoin(server.url, "/models")
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300):
        pass


def printed(what: str, load: Load) -> float:
    """Requests a second, which it also prints."""
    print(
        f"{what}: {load.rate:.1f} requests/s, p50 {load.p50:.0f} ms, p99 {load.p99:.0f} ms", file=sys.stderr
    )
    return load.rate


def main() -> int:
    """Measure and print the table; 1 where the bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of the clients, for each server")
    chosen, state = parser.parse_args(), State.of(os.environ)
    python, wrk = place.server(state), place.wrk(state)
    with tempfile.TemporaryDirectory(prefix="bench-many-", dir=state.folder("tmp")) as name:
        folder = Path(name)
        subprocess.run([python, INSIDE, "models", folder, "base"], check=True, capture_output=True)
        model, texts = folder / "base", folder / "texts.jsonl"
        with servers.ours(python, model, folder, HF_RUNTIME=RUNTIME) as server:
            load = press(wrk, server, texts, CLIENTS_OF_ONE, chosen.seconds)
            alone = printed(f"one model, {CLIENTS_OF_ONE} clients", load)
        settings = {"SAGEMAKER_MULTI_MODEL": "true", "HF_RUNTIME": RUNTIME}
        with servers.ours(python, folder / "model", folder, **settings) as server:
            for number in range(COPIES):
                shutil.copytree(model, folder / "models" / f"m{number}")
                load_model(server, f"m{number}", folder / "models" / f"m{number}")
            server = replace(server, url=urllib.parse.urljoin(server.url, "/models/m0/invoke"))
            load = press(wrk, server, texts, CLIENTS, chosen.seconds, COPIES)
            together = printed(f"{COPIES} models in {server.megabytes:.0f} MB, {CLIENTS} clients", load)
    what = f"{COPIES} models, {CLIENTS} clients, requests/s by one with {CLIENTS_OF_ONE}"
    return report("many-models", [Row(what, together, alone, "", 0.8, False)], keep=chosen.seconds == SECONDS)


if __name__ == "__main__":
    sys.exit(main())
