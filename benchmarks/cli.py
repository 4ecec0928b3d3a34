"""How long the commands that people repeat take: the best of a few runs, against their bounds."""

import subprocess
import sys
import time
from pathlib import Path

from results import Row, report

ROOT = Path(__file__).parents[1]
HFDLC = str(Path(sys.executable).with_name("hfdlc"))


def seconds(*argv: str) -> float:
    """One run's wall-clock time."""
    began = time.perf_counter()
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - began


def changed_toolkit() -> float:
    """From a changed line in the toolkit to a new image in the engine."""
    file = ROOT / "toolkit" / "src" / "hf_inference_toolkit" / "__init__.py"
    text = file.read_text()
    try:
        file.write_text(f"{text}# {time.time_ns()}\n")
        return seconds(HFDLC, "build")
    finally:
        file.write_text(text)


def main() -> int:
    """Warm everything up, then time it."""
    seconds("make", "build")
    bare = min(seconds(sys.executable, "-c", "import typer") for _ in range(5))
    helped = min(seconds(HFDLC, "--help") for _ in range(5))
    rows = [
        Row("hfdlc --help", helped, None, "s", 0.3),
        Row("hfdlc list --json", min(seconds(HFDLC, "list", "--json") for _ in range(5)), None, "s", 0.5),
        Row("make build, nothing changed", min(seconds("make", "build") for _ in range(3)), None, "s", 3.0),
        Row(
            "one line of the toolkit, to a loaded image",
            min(changed_toolkit() for _ in range(3)),
            None,
            "s",
            5.0,
        ),
        Row("hfdlc --help, against importing typer alone", helped, bare, "s", 4.0),
    ]
    return report("cli", rows)


if __name__ == "__main__":
    sys.exit(main())
