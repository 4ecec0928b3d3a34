"""Serving at this checkout against another commit, in alternating runs on the same cores.

`make bench-commits BASE=COMMIT`. The figure is the ratio of the medians of requests a second.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(Path(__file__).parent)]

import place  # noqa: E402
from results import Row, report  # noqa: E402
from servers import ours, press  # noqa: E402

from hfdlc.state import State  # noqa: E402

# A model of inside.py, and the number of clients.
WORK = (("base", 1), ("base", 32), ("tiny", 32))
LEAST = 0.97


@contextlib.contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """The files of a commit, in a worktree that is removed at the end."""
    path = folder / "base"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(path), commit], check=True)
    try:
        yield path
    finally:
        subprocess.run([*git, "remove", "--force", str(path)], check=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="the commit to compare with (make: BASE=COMMIT)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=15, help="length of a run (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Measure and print the table; 1 where a ratio is below the bound."""
    chosen, state = arguments(), State.of(os.environ)
    python, wrk = place.server(state), place.wrk(state)
    with (
        tempfile.TemporaryDirectory(prefix="bench-commits-", dir=state.folder("tmp")) as name,
        checkout(chosen.base, Path(name)) as base,
    ):
        folder = Path(name)
        inside = str(Path(__file__).with_name("inside.py"))
        subprocess.run([python, inside, "models", folder, "base", "tiny"], check=True, capture_output=True)

        def rate(code: Path, model: str, clients: int) -> float:
            with ours(python, folder / model, folder, PYTHONPATH=str(code / "toolkit/src")) as server:
                return press(wrk, server, folder / "texts.jsonl", clients, chosen.seconds).rate

        rows = []
        for model, clients in WORK:
            rates: dict[Path, list[float]] = {ROOT: [], base: []}
            for run in range(chosen.runs):
                # The first of two runs alternates too, so that neither gets the warmer processor.
                for code in (base, ROOT) if run % 2 else (ROOT, base):
                    rates[code].append(rate(code, model, clients))
            shown = " ".join(f"{one:.1f}:{other:.1f}" for one, other in zip(*rates.values(), strict=True))
            print(f"{model}, {clients} clients, this checkout and base: {shown}", file=sys.stderr)
            mine, theirs = statistics.median(rates[ROOT]), statistics.median(rates[base])
            work = f"{model}, {clients} clients, requests/s by {chosen.base}"
            rows.append(Row(work, mine, theirs, "", LEAST, at_most=False))
    return report("commits", rows)


if __name__ == "__main__":
    sys.exit(main())
