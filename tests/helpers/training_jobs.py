"""Training jobs that tests run as a user runs them."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hfdlc.build import builder
from hfdlc.build.session import Session

ROOT = Path(__file__).parents[2]
HFDLC = str(Path(sys.executable).with_name("hfdlc"))
PYTORCH = "huggingface-pytorch-training:2.13.0-transformers5.23.0-cpu-py311-debian12"
TENSORFLOW = "huggingface-tensorflow-training:2.21.0-transformers4.57.6-cpu-py311-debian12"
Script = Callable[..., list[object]]


def hfdlc(*words: object) -> subprocess.CompletedProcess[str]:
    """Run `hfdlc WORDS`, and give what it said."""
    return subprocess.run([HFDLC, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=900)


def build_both(session: Session, training: str) -> None:
    """The training cell, and the inference cell of its release."""
    wanted = (training, training.replace("-training:", "-inference:"))
    builder.build(session, [cell for cell in session.project.cells if cell.id in wanted])


def script_of(cell: str, folder: Path) -> Script:
    """The words of `hfdlc train` for scripts in a folder, which has the data and the output too."""
    (folder / "data").mkdir()
    (folder / "data" / "text.csv").write_text("text,label\n")

    def words(text: str, *more: object) -> list[object]:
        (folder / "script.py").write_text(text)
        output = folder / "out" / "model.tar.gz"
        return [
            "train", cell, "--script", folder / "script.py", "--data", folder / "data",
            "--output", output, *more,
        ]  # fmt: skip

    return words


@contextmanager
def served(*words: object) -> Iterator[str]:
    """The address of `hfdlc serve WORDS`, while it lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [HFDLC, "serve", *map(str, words), "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout
        if not process.stdout.readline():
            raise AssertionError(process.communicate()[1])
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def letter(ended: subprocess.CompletedProcess[str], status: int) -> str:
    """What a command that failed as it should said: none of our own traceback in it."""
    assert ended.returncode == status, ended.stderr
    assert "hfdlc/" not in ended.stderr.partition("error: ")[2]
    return ended.stderr.partition("error: ")[2]
