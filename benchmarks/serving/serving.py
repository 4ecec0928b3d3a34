"""Serving, compared with other servers and with the model alone, on the same cores, models and requests.

`make bench-serving` measures everything, `make bench-serving ROWS="throughput memory"` some of it.
"""

import argparse
import contextlib
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(Path(__file__).parent)]

import place  # noqa: E402
import servers  # noqa: E402
from inside import NEW_TOKENS  # noqa: E402
from results import Row, report  # noqa: E402
from servers import Load, Running, press, slowest_pings  # noqa: E402

from hfdlc.state import State  # noqa: E402

INSIDE = Path(__file__).with_name("inside.py")
CORES = os.cpu_count() or 1
FLAGS = set(Path("/proc/cpuinfo").read_text().split())
# Workers and threads of the SageMaker toolkit; batches of LitServe.
SETTINGS = ((1, CORES), (CORES, 1))
BATCHES = (8, 32)
CLIENTS = 32
VIEWERS = 8
WRITERS = 16
SECONDS = 12
# For p99: in 12 seconds, a slow processor answers 200 requests.
LONG = 60
STARTS = 4
Rows = Iterator[Row]


class Bench:
    """The parts that every measurement uses. What several rows need is measured once."""

    def __init__(self, state: State, folder: Path, models: set[str]) -> None:
        self.state, self.folder = state, folder
        self.python, self.wrk = place.server(state), place.wrk(state)
        self.inside("models", folder, *sorted(models))
        self.seen: dict[str, float] = {}  # texts a second, for the plot

    def inside(self, *words: str | Path, python: Path | None = None) -> dict[str, Any]:
        """A program of inside.py, in the environment of ours or another one."""
        command = [python or self.python, INSIDE, *words]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            raise RuntimeError(f"{' '.join(map(str, words))}\n{ended.stderr[-2000:]}")
        return dict(json.loads(ended.stdout.splitlines()[-1]))

    def requests(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    @contextlib.contextmanager
    def ours(self, model: str, **settings: str) -> Iterator[Running]:
        """The toolkit with a copy of a model in which nothing is cached, after its change of runtime."""
        with self.started(model, **settings) as server:
            print(f"{model} {settings or ''}: served by {servers.runtime(server)}", file=sys.stderr)
            yield server

    @contextlib.contextmanager
    def started(self, model: str, **settings: str) -> Iterator[Running]:
        """The same, as soon as it answers."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            shutil.copytree(self.folder / model, Path(name, model), copy_function=os.link)
            with servers.ours(self.python, Path(name, model), Path(name), **settings) as server:
                yield server

    def load(self, what: str, server: Running, requests: str, clients: int) -> Load:
        """A server under so many clients."""
        load = press(self.wrk, server, self.requests(requests), clients, SECONDS)
        times = f"median {load.p50:.1f} ms, p99 {load.p99:.1f} ms"
        print(f"{what}, {clients} clients: {load.rate:.1f} a second, {times}", file=sys.stderr)
        return load

    @functools.cache  # noqa: B019 - there is one Bench
    def sagemaker(self, model: str) -> float | None:
        """Requests a second of the SageMaker toolkit in its better setting; None without Java."""
        python = place.peer("sagemaker", self.state)
        if python is None:
            not_run("the SageMaker toolkit", "multi-model-server needs Java")
            return None
        found = []
        for workers, threads in SETTINGS:
            name = f"SageMaker toolkit, {workers} workers of {threads} threads"
            with (
                tempfile.TemporaryDirectory(dir=self.folder) as here,
                servers.sagemaker(python, self.folder / model, Path(here), workers, threads) as server,
            ):
                found.append(self.load(f"{model}: {name}", server, "texts", CLIENTS).rate)
            if model == "base":
                self.seen[name] = found[-1]
        return max(found)

    @functools.cached_property
    def litserve(self) -> float:
        """Requests a second of LitServe in its better setting."""
        python, found = place.peer("litserve", self.state), []
        assert python
        for batch in BATCHES:
            with servers.litserve(python, self.folder / "base", self.folder, batch, CORES) as server:
                name = f"LitServe, batches of {batch}"
                found.append(self.load(f"base: {name}", server, "texts", CLIENTS).rate)
            self.seen[name] = found[-1]
        return max(found)

    @functools.cache  # noqa: B019 - there is one Bench
    def passes(self, engine: str, dtype: str) -> float:
        """Texts a second of a bare pass, tokenization included."""
        words = ("passes", self.folder / "base", self.requests("texts"), engine, dtype)
        found = self.inside(*words, python=place.references(self.state))
        sizes = ", ".join(f"{size}: {rate:.1f}" for size, rate in found["sizes"].items())
        print(f"bare pass, {engine}, {dtype}, texts a second by group size: {sizes}", file=sys.stderr)
        self.seen[f"bare pass, {engine}, {dtype}"] = float(found["best"])
        return float(found["best"])

    @functools.cached_property
    def pipeline(self) -> dict[str, float]:
        """The bare pipeline of PyTorch in float32: median, memory and weights."""
        found = self.inside("bare", self.folder / "base", self.requests("texts"))
        self.seen["bare pipeline, one text at a time"] = 1e3 / found["median"]
        return found


def at_least(work: str, mine: float, theirs: float, bound: float | None) -> Row:
    """A row of requests, texts or tokens a second."""
    return Row(work, mine, theirs, "", bound, at_most=False)


def not_run(what: str, why: str) -> None:
    print(f"not run: {what}: {why}")


def has_amx(what: str) -> bool:
    """Whether the processor multiplies bfloat16 in tiles; if not, says that the row is not run."""
    if "amx_bf16" not in FLAGS:
        not_run(what, "this processor has no AMX")
    return "amx_bf16" in FLAGS


def throughput(bench: Bench) -> Rows:
    """float32 under 32 clients: bare passes, other servers, p99 and /ping."""
    with bench.ours("base") as server, ThreadPoolExecutor(1) as pool:
        load = bench.load("base: ours, float32", server, "texts", CLIENTS)
        pressed = pool.submit(press, bench.wrk, server, bench.requests("texts"), CLIENTS, LONG)
        ping = slowest_pings(server, SECONDS)
        tail = pressed.result()
    bench.seen["ours, float32"] = load.rate
    work = "32 clients, float32, requests/s"
    yield at_least(f"{work}, by a bare OpenVINO pass", load.rate, bench.passes("openvino", "float32"), 0.90)
    yield at_least("  by a bare PyTorch pass", load.rate, bench.passes("torch", "float32"), None)
    onnxruntime = bench.passes("onnxruntime", "float32")
    yield at_least("  by a bare ONNX Runtime pass", load.rate, onnxruntime, None)
    yield at_least("  by LitServe", load.rate, bench.litserve, 1.0)
    if theirs := bench.sagemaker("base"):
        yield at_least("  by the SageMaker toolkit", load.rate, theirs, 1.6)
    yield Row("32 clients, float32, p99 by the median, ms", tail.p99, tail.p50, "", 2.0)
    yield Row("32 clients, float32, p99 of /ping, ms", ping, None, "", 50.0)


def bfloat16(bench: Bench) -> Rows:
    """bfloat16 with AMX under 32 clients: bare passes and the SageMaker toolkit."""
    if not has_amx("bfloat16"):
        return
    with bench.ours("base", HF_DTYPE="bfloat16") as server:
        load = bench.load("base: ours, bfloat16", server, "texts", CLIENTS)
    bench.seen["ours, bfloat16"] = load.rate
    work = "32 clients, bfloat16, requests/s"
    yield at_least(f"{work}, by a bare OpenVINO pass", load.rate, bench.passes("openvino", "bfloat16"), 0.80)
    yield at_least("  by a bare PyTorch pass", load.rate, bench.passes("torch", "bfloat16"), None)
    if theirs := bench.sagemaker("base"):
        yield at_least("  by the SageMaker toolkit in float32", load.rate, theirs, 5.0)


def latency(bench: Bench) -> Rows:
    """One client, float32 and bfloat16: medians, by the bare PyTorch pipeline in float32."""
    for dtype, bound in (("float32", 0.75), ("bfloat16", 0.40)):
        if dtype == "bfloat16" and not {"amx_bf16", "avx512_bf16"} & FLAGS:
            not_run("latency in bfloat16", "this processor has no bfloat16")
            return
        with bench.ours("base", HF_DTYPE=dtype) as server:
            load = bench.load(f"base: ours, {dtype}", server, "texts", 1)
        work = f"1 client, {dtype}, median by the bare pipeline's, ms"
        yield Row(work, load.p50, bench.pipeline["median"], "", bound)


def free(bench: Bench) -> Rows:
    """A model that costs nothing: the server itself, by the SageMaker toolkit."""
    theirs = bench.sagemaker("tiny")
    if theirs is None:
        return
    with bench.ours("tiny") as server:
        load = bench.load("tiny: ours", server, "texts", CLIENTS)
    yield at_least("a model that costs nothing, 32 clients, requests/s", load.rate, theirs, 2.5)


def start(bench: Bench) -> Rows:
    """Seconds to the first 200 of /ping, with and without a cached model, by a bare import and load."""
    bare, fresh, cached = [], [], []
    with tempfile.TemporaryDirectory(dir=bench.folder) as name:
        model = shutil.copytree(bench.folder / "base", Path(name, "base"))
        with servers.ours(bench.python, model, Path(name)) as server:
            servers.runtime(server)
        for _ in range(STARTS):
            began = time.time()
            bare.append(bench.inside("load", bench.folder / "base")["at"] - began)
            with bench.started("base") as server:
                fresh.append(server.started)
            with servers.ours(bench.python, model, Path(name)) as server:
                cached.append(server.started)
    # The first ones read files that are not in the page cache.
    theirs = statistics.median(bare[1:])
    yield Row(
        "first start to the first 200, by import and load, s", statistics.median(fresh[1:]), theirs, "", 1.25
    )
    yield Row("  the second start", statistics.median(cached[1:]), theirs, "", 1.25)


def memory(bench: Bench) -> Rows:
    """Megabytes after 2,000 shapes, above the bare pipeline's and the compiled weights."""
    with bench.ours("base") as server:
        servers.post_all(server, bench.requests("shapes"))
        mine = server.megabytes
    theirs = bench.pipeline["megabytes"] + bench.pipeline["weights"]
    print(f"memory: ours {mine:.0f} MB, pipeline and weights {theirs:.0f} MB", file=sys.stderr)
    yield Row("memory after 2,000 shapes, above pipeline and weights, MB", mine - theirs, None, "", 100.0)


def images(bench: Bench) -> Rows:
    """ViT of base size under 8 clients, by the bare pipeline in batches of 8 in the same precision."""
    for dtype, bound in (("float32", 1.0), ("bfloat16", 1.3)):
        if dtype == "bfloat16" and not has_amx("images in bfloat16"):
            return
        with bench.ours("vision", HF_TASK="image-classification", HF_DTYPE=dtype) as server:
            load = bench.load(f"vision: ours, {dtype}", server, "images", VIEWERS)
        bare = bench.inside("images", bench.folder / "vision", bench.requests("images"), dtype)["rate"]
        yield at_least(f"ViT base, 8 clients, {dtype}, images/s by the pipeline", load.rate, bare, bound)


def embeddings(bench: Bench) -> Rows:
    """Embeddings of MiniLM's shape under 32 clients, by infinity-emb, which answers one vector a text."""
    python = place.peer("infinity", bench.state)
    assert python
    with servers.infinity(python, bench.folder / "embedder", bench.folder) as server:
        theirs = bench.load("embedder: infinity-emb", server, "openai", CLIENTS).rate
    with bench.ours("embedder", HF_TASK="feature-extraction") as server:
        mine = bench.load("embedder: ours", server, "texts", CLIENTS).rate
    yield at_least("MiniLM, 32 clients, float32, requests/s by infinity-emb", mine, theirs, 1.0)


def generation(bench: Bench) -> Rows:
    """16 writers: tokens a second, by the model alone one by one."""
    with bench.ours("writer") as server:
        mine = bench.load("writer: ours", server, "prompts", WRITERS).rate * NEW_TOKENS
    theirs = bench.inside("generate", bench.folder / "writer", bench.requests("prompts"))["tokens"]
    yield at_least("16 writers, tokens/s by one by one", mine, theirs, 4.0)


# By name, with the model of inside.py that each needs.
MEASURED: Mapping[str, tuple[Callable[[Bench], Rows], str]] = {
    "throughput": (throughput, "base"),
    "bfloat16": (bfloat16, "base"),
    "latency": (latency, "base"),
    "free": (free, "tiny"),
    "start": (start, "base"),
    "memory": (memory, "base"),
    "images": (images, "vision"),
    "embeddings": (embeddings, "embedder"),
    "generation": (generation, "writer"),
}


def arguments() -> argparse.Namespace:
    lines = [f"  {name:12}{(row.__doc__ or '').splitlines()[0]}" for name, (row, _) in MEASURED.items()]
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(["rows:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="what to measure (default: everything)")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.rows if name not in MEASURED]:
        parser.error(f"unknown row: {', '.join(unknown)}; allowed: {', '.join(MEASURED)}")
    return chosen


def main() -> int:
    """Measure and print the table; after everything, keep it and draw the plot."""
    chosen, state = arguments(), State.of(os.environ)
    measured = [MEASURED[name] for name in chosen.rows or MEASURED]
    with tempfile.TemporaryDirectory(prefix="bench-serving-", dir=state.folder("tmp")) as name:
        bench = Bench(state, Path(name), {model for _, model in measured})
        rows = [row for measure, _ in measured for row in measure(bench)]
    code = report("serving", rows, keep=not chosen.rows)
    if not chosen.rows:
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
