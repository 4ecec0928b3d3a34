"""Text generation compared with `transformers serve --continuous-batching`, `generate` and an older commit.

`make bench-generation`: one run, the same model, cores and requests, over HTTP. The model is a Llama of about
40 million parameters with random weights in float32.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks/serving"), str(Path(__file__).parent)]

import place  # noqa: E402
import writer  # noqa: E402
from compare_commits import checkout  # noqa: E402
from load import Dialect, Seen, converse, press  # noqa: E402
from results import Row, machine, report  # noqa: E402
from servers import _ports, _process, _until, ours  # noqa: E402

from hfdlc.state import State  # noqa: E402

# What `transformers serve` needs beside the packages of the image.
PEER = ("accelerate==1.15.0", "fastapi==0.165.0", "openai==3.57.0")
SHORT = 16
EQUAL = 32
BATCHING = "toolkit/src/hf_inference_toolkit/runtimes/token_batch.py"
Work = list[tuple[object, int]]


def requests(count: int, seed: int, tokens: tuple[int, int] = (4, 192)) -> Work:
    """Prompts of 8 to 48 words with 4 to 192 new tokens."""
    chance, words = random.Random(seed), writer.words()
    return [
        (" ".join(chance.choices(words, k=chance.randint(8, 48))), chance.randint(*tokens))
        for _ in range(count)
    ]


@contextlib.contextmanager
def peer(python: Path, model: Path, folder: Path) -> Iterator[Dialect]:
    """`transformers serve` with continuous batching."""
    port, _ = _ports()
    log, began = folder / "peer.log", time.perf_counter()
    options = ["--continuous-batching", "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1"]
    command: list[str | Path] = [
        python.with_name("transformers"),
        "serve",
        str(model),
        *options,
        "--port",
        str(port),
    ]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "TRANSFORMERS_VERBOSITY": "error"}
    with _process(command, environ, log) as process:
        _until(process, f"http://127.0.0.1:{port}/health", None, log, began)
        yield Dialect(f"http://127.0.0.1:{port}", str(model), True)


@contextlib.contextmanager
def toolkit(python: Path, model: Path, folder: Path, **settings: str) -> Iterator[Dialect]:
    """The toolkit of this checkout, or of another one by PYTHONPATH, which may not have OpenAI's routes."""
    settings = {"HF_TASK": "text-generation", "SAGEMAKER_MODEL_SERVER_TIMEOUT": "600", **settings}
    with ours(python, model, folder, **settings) as server:
        yield Dialect(server.url.rsplit("/", 1)[0], "dummy", "PYTHONPATH" not in settings)


def commit_before(file: str = BATCHING) -> str:
    """The last commit without a file: without continuous batching."""
    git = ["git", "-C", str(ROOT), "log", "--diff-filter=A", "--format=%H", "--", file]
    added = subprocess.run(git, check=True, capture_output=True, text=True).stdout.split()
    return f"{added[-1]}^"


def figures(dialect: Dialect, mixed: Work, many: Work, equal: Work, one: Work) -> dict[str, Seen]:
    """All rows of one server."""
    press(dialect, mixed[:4], 4)
    return {
        "mixed": press(dialect, mixed, 16),
        "many": press(dialect, many, 64),
        "equal": press(dialect, equal, 16),
        "one": press(dialect, one, 1),
        "chat": converse(dialect, _system(), ["who are you"] * 8, 24),
    }


def _system() -> str:
    """About 500 tokens."""
    return " ".join(random.Random(4).choices(writer.words(), k=490))


def main() -> int:
    """Measure and print the table; 1 where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--base", help="the commit of today's way (default: the one before continuous batching)"
    )
    parser.add_argument(
        "--requests", type=int, default=64, help="of 16 clients; 64 clients send twice as many"
    )
    chosen, state = parser.parse_args(), State.of(os.environ)
    python, peers = place.server(state), place.with_packages(state, "bench-generation/peer", PEER)
    count = chosen.requests
    mixed, many = requests(count, 1), requests(2 * count, 2)
    equal = [(prompt, EQUAL) for prompt, _ in requests(count, 3)]
    one = requests(max(2, count // 8), 4, (64, 64))
    described = machine()
    print(f"{described['processor']}, {described['cores']} cores", file=sys.stderr)
    base = chosen.base or commit_before()
    with (
        tempfile.TemporaryDirectory(prefix="bench-generation-", dir=state.folder("tmp")) as name,
        checkout(base, Path(name)) as before,
    ):
        folder, model = Path(name), Path(name) / "model"
        program = str(Path(__file__).with_name("writer.py"))

        def run(*words: str | Path) -> dict[str, float]:
            done = subprocess.run([python, program, *words], check=True, capture_output=True, text=True)
            print(done.stdout.strip(), file=sys.stderr)
            return {str(key): float(value) for key, value in json.loads(done.stdout).items()}

        run("model", model)
        with toolkit(python, model, folder) as server:
            mine = figures(server, mixed, many, equal, one)
        with peer(peers, model, folder) as server:
            theirs = figures(server, mixed, many, equal, one)
        with toolkit(python, model, folder, PYTHONPATH=str(before / "toolkit/src")) as server:
            press(server, equal[:4], 4)
            old = press(server, equal, 16)
        with toolkit(python, model, folder, HF_DTYPE="bfloat16") as server:
            press(server, mixed[:4], 4)
            half = press(server, many, 64)
        lines = folder / "one.jsonl"
        lines.write_text("".join(json.dumps({"prompt": p, "tokens": n}) + "\n" for p, n in one))
        alone = run("alone", model, lines, "float32")
    bare = alone["tokens"] / alone["seconds"]
    has_amx = "amx_bf16" in Path("/proc/cpuinfo").read_text()
    rows = [
        Row("16 clients, mixed, tokens/s", mine["mixed"].rate, theirs["mixed"].rate, "", 1.4, False),
        Row(
            "the same, ms to the first token, p50",
            mine["mixed"].first(50),
            theirs["mixed"].first(50),
            "",
            1.0,
        ),
        Row(
            "the same, ms to the first token, p95",
            mine["mixed"].first(95),
            theirs["mixed"].first(95),
            "",
            1.0,
        ),
        Row(
            f"the same, ms of texts with at most {SHORT} tokens, p50",
            mine["mixed"].short(SHORT),
            theirs["mixed"].short(SHORT),
            "",
            1.0,
        ),
        Row("64 clients, mixed, tokens/s", mine["many"].rate, theirs["many"].rate, "", 1.6, False),
        Row(
            "16 clients, 32 tokens each, by the commit before", mine["equal"].rate, old.rate, "", 0.95, False
        ),
        Row("the same, tokens/s by the peer", mine["equal"].rate, theirs["equal"].rate, "", None, False),
        Row(
            "64 clients, bfloat16 by float32, tokens/s",
            half.rate,
            mine["many"].rate,
            "",
            1.5 if has_amx else None,
            False,
        ),
        Row("1 client, tokens/s by generate", mine["one"].rate, bare, "", 0.95, False),
        Row("16 clients, mixed, tokens/s by generate one by one", mine["mixed"].rate, bare, "", None, False),
        Row("chat, 8 turns, 500 tokens in front, s", mine["chat"].seconds, theirs["chat"].seconds, "", None),
        Row(
            "the same, ms to the first token, p50", mine["chat"].first(50), theirs["chat"].first(50), "", None
        ),
    ]
    return report("generation", rows)


if __name__ == "__main__":
    sys.exit(main())
