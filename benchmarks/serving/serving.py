"""Serving against what a user would take instead: the peer, the bare pipeline, the bare forward pass.

All on the same cores, model and requests, in one run. `make bench-serving`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(Path(__file__).parent)]

import place  # noqa: E402
from inside import NEW_TOKENS  # noqa: E402
from results import Row, report  # noqa: E402
from servers import Load, ours, peer, press, slowest_pings  # noqa: E402

from hfdlc.state import State  # noqa: E402

INSIDE = Path(__file__).with_name("inside.py")
CORES = os.cpu_count() or 1
# Workers and threads of each; the last is what the peer does when nothing is said.
SETTINGS = ((1, CORES), (CORES, 1), (CORES, CORES))
CLIENTS = 32
WRITERS = 16
SECONDS = 15
REST = 4.0  # seconds without a request, after which memory is given back


class Bench:
    """The parts that every measurement uses."""

    def __init__(self, state: State, folder: Path) -> None:
        self.python, self.peer_python = place.environments(state)
        self.wrk = place.wrk(state)
        self.folder = folder
        self.inside("models", folder)
        self.texts, self.prompts = folder / "texts.jsonl", folder / "prompts.jsonl"
        self.seen: dict[str, Any] = {}

    def inside(self, *words: str | Path) -> dict[str, Any]:
        """A program of inside.py in the environment of ours."""
        out = subprocess.run([self.python, INSIDE, *words], check=True, capture_output=True, text=True).stdout
        return dict(json.loads(out.splitlines()[-1]))

    def peers(self, model: str) -> dict[str, Load]:
        """The peer under 32 clients in each of its settings."""
        found: dict[str, Load] = {}
        if self.peer_python is None:
            return found
        for workers, threads in SETTINGS:
            with (
                tempfile.TemporaryDirectory(dir=self.folder) as here,
                peer(self.peer_python, self.folder / model, Path(here), workers, threads) as server,
            ):
                load = press(self.wrk, server, self.texts, CLIENTS, SECONDS)
            found[f"peer, {workers} workers of {threads} threads"] = load
            say(f"{model}: peer, {workers} workers of {threads} threads", load)
        return found

    def ours(self, model: str, clients: int, **settings: str) -> Load:
        """Ours under so many clients."""
        requests = self.prompts if model == "writer" else self.texts
        with ours(self.python, self.folder / model, self.folder, **settings) as server:
            load = press(self.wrk, server, requests, clients, SECONDS)
        say(f"{model}: ours, {clients} clients {settings or ''}", load)
        return load

    def pings(self, model: str) -> float:
        """The 99th percentile of /ping, in milliseconds, while clients press."""
        with (
            ours(self.python, self.folder / model, self.folder) as server,
            ThreadPoolExecutor(1) as pool,
        ):
            pressed = pool.submit(press, self.wrk, server, self.texts, CLIENTS, SECONDS)
            taken = slowest_pings(server, SECONDS)
            pressed.result()
        print(f"{model}: /ping under {CLIENTS} clients, p99 {taken:.1f} ms", file=sys.stderr)
        return taken

    def start(self) -> tuple[float, float]:
        """Seconds to the first 200 of /ping, and of a bare import and load; the medians of alternate runs."""
        mine, bare = [], []
        for _ in range(4):
            began = time.time()
            bare.append(self.inside("load", self.folder / "base")["at"] - began)
            with ours(self.python, self.folder / "base", self.folder) as server:
                mine.append(server.started)
        # The first of each finds the files out of the cache.
        return statistics.median(mine[1:]), statistics.median(bare[1:])

    def memory(self) -> tuple[float, ...]:
        """Megabytes above the bare pipeline's: after one client, after many, and at rest again."""
        found = []
        with ours(self.python, self.folder / "base", self.folder) as server:
            for clients in (1, CLIENTS):
                press(self.wrk, server, self.texts, clients, SECONDS)
                found.append(server.megabytes)
            time.sleep(REST)
            found.append(server.megabytes)
        bare = self.inside("bare", self.folder / "base", self.texts)["megabytes"]
        return tuple(megabytes - bare for megabytes in found)


def say(what: str, load: Load) -> None:
    """A line for who waits."""
    told = f"{load.rate:.1f} a second, median {load.p50:.1f} ms, p99 {load.p99:.1f} ms"
    print(f"{what}: {told}", file=sys.stderr)


def at_least(work: str, mine: float, theirs: float, bound: float) -> Row:
    """A row of requests or tokens a second."""
    return Row(work, mine, theirs, "", bound, at_most=False)


def text_rows(bench: Bench) -> list[Row]:
    """The model of DistilBERT's size."""
    peers = bench.peers("base")
    many, half = bench.ours("base", CLIENTS), bench.ours("base", CLIENTS, HF_DTYPE="bfloat16")
    passes = bench.inside("passes", bench.folder / "base", bench.texts)["best"]
    toolkit = ROOT / "toolkit/src"
    same = bench.inside("passes", bench.folder / "base", bench.texts, toolkit)["best"]
    one, bare = bench.ours("base", 1), bench.inside("bare", bench.folder / "base", bench.texts)
    rows = [
        at_least("base, 32 clients, by the bare pass grouped by length", many.rate, passes, 0.85),
        at_least("  the same, by that pass with our products", many.rate, same, 0.85),
        Row("base, 32 clients, p99 of /ping, ms", bench.pings("base"), None, "", 50.0),
        Row("base, 1 client, median above the bare pipeline's, ms", one.p50 - bare["median"], None, "", 2.0),
    ]
    if peers:
        best = max(load.rate for load in peers.values())
        median = min(load.p50 for load in peers.values())
        rows.append(at_least("base, 32 clients, float32, by the best peer's", many.rate, best, 2.5))
        rows.append(Row("base, 32 clients, p99 by the best peer's median, ms", many.p99, median, "", 1.0))
    if peers and "amx_bf16" in Path("/proc/cpuinfo").read_text():
        rows.append(at_least("base, 32 clients, bfloat16 with AMX, by the best peer's", half.rate, best, 8.0))
    else:
        print("not run: bfloat16 with AMX against the peer: no AMX in this processor, or no peer")
    bench.seen |= {name: load.rate for name, load in peers.items()}
    bench.seen |= {"bare pipeline": 1e3 / bare["median"], "bare pass grouped by length": passes}
    bench.seen["bare pass with our products"] = same
    bench.seen |= {"ours, float32": many.rate, "ours, bfloat16": half.rate}
    return rows


def main() -> int:
    """Measure, print the table and draw the plot."""
    state = State.of(os.environ)
    with tempfile.TemporaryDirectory(prefix="bench-serving-", dir=state.folder("tmp")) as name:
        bench = Bench(state, Path(name))
        rows = text_rows(bench)
        peers, tiny = bench.peers("tiny"), bench.ours("tiny", CLIENTS)
        if peers:
            best = max(load.rate for load in peers.values())
            rows.append(
                Row("a model that costs nothing, 32 clients, by the peer's", tiny.rate, best, "", 2.0, False)
            )
        mine, bare = bench.start()
        rows.append(Row("start to the first 200, by import and load, s", mine, bare, "", 1.25))
        one, many, rest = bench.memory()
        rows.append(Row("memory above the bare pipeline's after 1 client, MB", one, None, "", 60.0))
        rows.append(Row("memory above the bare pipeline's after 32 clients, MB", many, None, "", 60.0))
        rows.append(Row("  the same, some seconds later, MB", rest, None, "", 60.0))
        written = bench.ours("writer", WRITERS).rate * NEW_TOKENS
        single = bench.inside("generate", bench.folder / "writer", bench.prompts)["tokens"]
        rows.append(at_least("16 writers, tokens a second, by one by one", written, single, 4.0))
        code = report("serving", rows)
        plot(state, bench.seen)
    return code


def plot(state: State, seen: dict[str, float]) -> None:
    """Texts a second of everything that was measured on the model of DistilBERT's size."""
    file = ROOT / "benchmarks/results/serving.svg"
    python = place.plotter(state)
    subprocess.run(
        [python, Path(__file__).with_name("plot.py"), file], input=json.dumps(seen), text=True, check=True
    )
    print(f"drawn in {file.relative_to(Path.cwd())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
