"""Models on this machine: folders, or archives like model.tar.gz."""

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hfdlc.errors import UserError
from hfdlc.state import State

ARCHIVES = (".tar.gz", ".tgz")


def is_model(word: str) -> bool:
    """Whether a command line argument is a model and not a cell."""
    return word.endswith(ARCHIVES) or Path(word).exists()


@contextmanager
def folder(model: Path, state: State) -> Iterator[Path]:
    """The folder of a model; an archive is unpacked into a temporary one.

    Raises UserError if it has no config.json, adapter or code, or if these are one level too deep.
    """
    if not model.exists():
        raise UserError("no such model", location=str(model), hint="give a folder or a model.tar.gz")
    if model.is_dir():
        _check(model, model)
        yield model.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="model-", dir=state.folder("tmp")) as name:
        unpacked = Path(name)
        _unpack(model, unpacked)
        _check(unpacked, model)
        unpacked.chmod(0o755)
        yield unpacked


def _unpack(model: Path, target: Path) -> None:
    try:
        with tarfile.open(model) as archive:
            archive.extractall(target, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(
            f"cannot be unpacked: {error}",
            location=str(model),
            hint="pack it again: tar -czf model.tar.gz -C FOLDER .",
        ) from error


def _check(unpacked: Path, model: Path) -> None:
    files = ("config.json", "adapter_config.json", "handler.py")
    if (unpacked / "code").is_dir() or any((unpacked / name).is_file() for name in files):
        return
    deeper = sorted(unpacked.glob("*/config.json"))
    if deeper:
        inner = deeper[0].parent.name
        raise UserError(
            f"config.json is one level too deep: it is in {inner}/",
            location=str(model),
            hint=f"tar -czf model.tar.gz -C {inner} ." if not model.is_dir() else f"use {model / inner}",
        )
    raise UserError(
        "no config.json in this model", location=str(model), hint="use the folder that contains it"
    )
