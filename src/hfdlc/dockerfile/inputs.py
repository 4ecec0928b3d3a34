"""The inputs of a cell's image. An image whose label has the current inputs is up to date."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from hfdlc.locks import files, lockfile
from hfdlc.matrix.cells import Cell

LABEL = "io.hfdlc.inputs"  # an image carries its inputs as JSON
LAYOUT = "3"  # raised when the builder makes another image from the same inputs
TOOLKIT = ("pyproject.toml", "README.md", "src")  # what .dockerignore lets Docker read of toolkit/
TRAIN = "image/train.py"
FINISH, PACK = "image/finish.py", "image/pack.py"

Inputs = Mapping[str, str]  # name -> the digest of its content


def of(cell: Cell, root: Path, images: Mapping[str, str]) -> dict[str, str]:
    """The inputs of a cell's image; `images`: its base images with their digests, by build argument."""
    locks = {f"{group}.lock": lockfile.group_file(cell, group) for group in cell.groups}
    locks["installer.lock"] = lockfile.installer_file(cell.installer_python)
    return {
        "Dockerfile": of_file(f"{root}/{cell.folder}/Dockerfile"),
        "layout": LAYOUT,
        "toolkit": toolkit(root),
        "finish": finish(root),
        "pack": pack(root),
        **({"train": train(root)} if cell.type == "training" else {}),
        **{name: of_file(f"{root}/{file}") for name, file in locks.items()},
        **{name: _short(image.encode()) for name, image in images.items()},
    }


def digest(inputs: Inputs) -> str:
    """The digest of all inputs."""
    return "sha256:" + hashlib.sha256(text(inputs).encode()).hexdigest()


def text(inputs: Inputs) -> str:
    """The inputs as the value of the label."""
    return json.dumps(inputs, sort_keys=True, separators=(",", ":"))


def read(label: str | None) -> dict[str, str]:
    """The inputs in a label; empty where the label is missing or damaged."""
    try:
        found = json.loads(label or "{}")
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def changed(before: Inputs, now: Inputs) -> list[str]:
    """The names of inputs that were added, removed or changed."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


@cache
def toolkit(root: Path) -> str:
    """The digest of the toolkit's sources."""
    return _short("\n".join(_lines(root / "toolkit")).encode())


def train(root: Path) -> str:
    """The digest of what training images start."""
    return of_file(f"{root}/{TRAIN}")


def finish(root: Path) -> str:
    """The digest of what makes layers of packages."""
    return of_file(f"{root}/{FINISH}")


def pack(root: Path) -> str:
    """The digest of what packs layers."""
    return of_file(f"{root}/{PACK}")


def _lines(folder: Path) -> Iterable[str]:
    for part in TOOLKIT:
        found = folder / part
        for file in sorted(found.rglob("*")) if found.is_dir() else [found]:
            if file.is_file() and "__pycache__" not in file.parts:
                yield f"{file.relative_to(folder)} {hashlib.sha256(file.read_bytes()).hexdigest()}"


def of_file(file: str) -> str:
    """A short digest of a file."""
    return files.digest(file).removeprefix("sha256:")[:16]


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
