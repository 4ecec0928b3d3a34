"""Text generation by encoder-decoder models, compared with the last commit that left them to `generate`.

`make bench-encoder-decoder`: one run, the same models, cores and requests, over HTTP. T5 and BART have about
53 million parameters, random weights and float32.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks/serving"), str(Path(__file__).parent)]

import place  # noqa: E402
import writer  # noqa: E402
from compare_commits import checkout  # noqa: E402
from generation import EQUAL, SHORT, Work, commit_before, toolkit  # noqa: E402
from load import Dialect, Seen, press  # noqa: E402
from results import Row, machine, report  # noqa: E402

from hfdlc.state import State  # noqa: E402

BATCHING = "toolkit/src/hf_inference_toolkit/runtimes/encoder_decoder_batch.py"
MODELS = ("T5", "BART")


class Sources(Dialect):
    """The toolkit's own route, for texts of models with an encoder."""

    def body(self, prompt: object, tokens: int) -> dict[str, object]:
        """See Dialect."""
        parameters = {"max_new_tokens": tokens, "num_beams": 1}
        return {"inputs": prompt, "parameters": parameters, "stream": True}


def requests(count: int, seed: int, words: tuple[int, int], tokens: tuple[int, int]) -> Work:
    """Sources of so many words with so many new tokens."""
    chance, known = random.Random(seed), writer.words()
    return [
        (" ".join(chance.choices(known, k=chance.randint(*words))), chance.randint(*tokens))
        for _ in range(count)
    ]


def figures(dialect: Dialect, works: dict[str, tuple[Work, int]]) -> dict[str, Seen]:
    """All rows of one server."""
    press(dialect, works["mixed"][0][:4], 4)
    return {name: press(dialect, work, clients) for name, (work, clients) in works.items()}


def rows(name: str, ours: dict[str, Seen], theirs: dict[str, Seen]) -> list[Row]:
    """The table of one model."""

    def rate(work: str, key: str, bound: float | None) -> Row:
        return Row(f"{name}: {work}, tokens/s", ours[key].rate, theirs[key].rate, "", bound, False)

    mixed = ours["mixed"], theirs["mixed"]
    return [
        rate("16 clients, mixed", "mixed", 1.4),
        Row("the same, ms to the first token, p50", mixed[0].first(50), mixed[1].first(50), "", 1.0),
        Row("the same, ms to the first token, p95", mixed[0].first(95), mixed[1].first(95), "", 1.0),
        Row(
            f"the same, ms of texts with at most {SHORT} tokens, p50",
            mixed[0].short(SHORT),
            mixed[1].short(SHORT),
            "",
            1.0,
        ),
        rate("16 clients, long sources", "long", 1.0),
        rate(f"16 clients, {EQUAL} tokens each", "equal", 0.95),
        rate("1 client", "one", 0.95),
    ]


def main() -> int:
    """Measure and print the table; 1 where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", help="the commit to compare with (default: the last one with `generate`)")
    parser.add_argument("--requests", type=int, default=48, help="of 16 clients")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=MODELS)
    chosen, state = parser.parse_args(), State.of(os.environ)
    python, count = place.server(state), chosen.requests
    works = {
        "mixed": (requests(count, 1, (8, 48), (4, 192)), 16),
        "long": (requests(count, 2, (100, 400), (4, 64)), 16),
        "equal": (requests(count, 3, (8, 48), (EQUAL, EQUAL)), 16),
        "one": (requests(max(2, count // 8), 4, (8, 48), (64, 64)), 1),
    }
    described = machine()
    print(f"{described['processor']}, {described['cores']} cores", file=sys.stderr)
    table: list[Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-encoder-decoder-", dir=state.folder("tmp")) as name,
        checkout(chosen.base or commit_before(BATCHING), Path(name)) as before,
    ):
        folder = Path(name)
        for model in chosen.models:
            place_of_model = folder / model
            command = [python, Path(__file__).with_name("writer.py"), model, place_of_model]
            made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(model, json.loads(made), file=sys.stderr)

            def measured(**settings: str) -> dict[str, Seen]:
                settings["HF_TASK"] = "text2text-generation"
                with toolkit(python, place_of_model, folder, **settings) as server:  # noqa: B023
                    return figures(Sources(server.url, server.model, False), works)

            table += rows(model, measured(), measured(PYTHONPATH=str(before / "toolkit/src")))
    return report("encoder-decoder", table)


if __name__ == "__main__":
    sys.exit(main())
