"""Locks as they are committed: a cell's packages, every one pinned and hashed, split by layer group."""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hfdlc.errors import HfdlcError
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.schema import Matrix, Rest
from hfdlc.state import write_whole

ENTRY = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;\\]+)")
# The same for every lock: BuildKit tells stages apart by the bytes of theirs.
HEADER = "# Written by `hfdlc lock`, not by hand.\n"
# Beside the locks of a folder: what they answer, what was out of reach, what they hold.
RECORD = "locked.json"
# Where the installer's lock is, below the repository's root, and what it is for.
INSTALLER_FILE, INSTALLER_PYTHON, INSTALLER_PLATFORM = (
    "images/installer.lock",
    "3.11",
    "x86_64-manylinux_2_28",
)


@dataclass(frozen=True)
class Entry:
    """One locked package, with the text that uv wrote for it (its hashes)."""

    name: str
    version: str
    text: str


@dataclass(frozen=True)
class Request:
    """What a lock answers."""

    requirements: tuple[str, ...]
    python: str
    platform: str
    cutoff: str  # ISO date
    framework: tuple[str, ...] = ()  # those of the requirements that the framework's source gives
    libraries: tuple[str, ...] = ()  # those that every type of image has
    toolkit: tuple[str, ...] = ()  # those of the toolkit alone
    beside: tuple[str, ...] = ()  # of the release's other types: what they share has the same version
    named: tuple[tuple[str, str], ...] = ()  # package, or pattern of names -> layer group
    rest: tuple[tuple[Rest, str], ...] = ()  # what needs a package first -> layer group
    page: str | None = None
    image: str | None = None
    replaces: str | None = None
    sources_only: tuple[str, ...] = ()

    def digest(self) -> str:
        """Changes whenever the same question would have to be asked again."""
        return _digest(json.dumps(vars(self), sort_keys=True))


def request(cell: Cell) -> Request:
    """The question whose answer is the cell's lock."""
    framework = cell.framework_requirements()
    return Request(
        requirements=(*cell.requirements(cell.packages), *cell.toolkit_packages),
        python=cell.python,
        platform=cell.base.platform,
        cutoff=cell.cutoff.isoformat(),
        framework=framework,
        libraries=cell.requirements(),
        toolkit=cell.toolkit_packages,
        beside=cell.requirements(cell.of_all_types)[len(framework) + 1 :],
        named=tuple((name, group.name) for group in cell.layer_groups for name in group.named),
        rest=tuple((group.rest, group.name) for group in cell.layer_groups if group.rest),
        page=cell.source.page,
        image=cell.source.image,
        replaces=cell.source.replaces,
        sources_only=tuple(cell.base.sources_only),
    )


def installer_request(matrix: Matrix) -> Request:
    """The question for what installs packages, and builds the toolkit."""
    newest = max(release.cutoff for release in matrix.file.releases)
    requires = tuple(matrix.file.installer.requires)
    return Request(requires, INSTALLER_PYTHON, INSTALLER_PLATFORM, newest.isoformat())


def group_file(cell: Cell, group: str) -> str:
    """Where a layer group's lock is, below the repository's root."""
    return f"{cell.folder}/{group}.lock"


def stand_in_file(cell: Cell) -> str:
    """Where the framework of an image on a stand-in is locked, if its own source is out of reach."""
    return f"{cell.folder}/stand-in.lock"


def text(locked: Sequence[Entry]) -> str:
    """A lock's file: hashed requirements."""
    return HEADER + "".join(f"{entry.text}\n" for entry in locked)


def write(files: Mapping[str, str], asked: Request, root: Path, missing: str = "") -> None:
    """Write the locks of a folder, texts by path below the root, and what they answer beside them."""
    for path, packages in files.items():
        write_whole(root / path, packages)
    note = {"out of reach": missing} if missing else {}
    content = {Path(path).name: _digest(packages) for path, packages in files.items()}
    record = json.dumps({"asked": asked.digest(), **note, "content": content}, indent=1)
    write_whole((root / next(iter(files))).parent / RECORD, record + "\n")


def entries(requirements: str) -> tuple[Entry, ...]:
    """The packages of a hashed requirements file."""
    blocks = re.split(r"\n(?=\S)", requirements.strip())
    matches = ((ENTRY.match(block), block) for block in blocks)
    return tuple(Entry(canonicalize_name(m["name"]), m["version"], block) for m, block in matches if m)


def read(cell: Cell, root: Path) -> dict[str, tuple[Entry, ...]]:
    """The cell's locked packages by layer group; empty where it has no lock."""
    files = {group: root / group_file(cell, group) for group in cell.groups}
    if not all(file.is_file() for file in files.values()):
        return {}
    return {group: entries(file.read_text()) for group, file in files.items()}


def fault(file: Path, asked: Request) -> str | None:
    """Why a lock cannot be used: missing, of another question, or edited by hand; None where it can."""
    if not file.is_file():
        return "is missing"
    known = _record(file.parent)
    if known.get("content", {}).get(file.name) != _digest(_text(file)):
        return "was edited by hand"
    if known.get("asked") != asked.digest():
        return "is out of date: the matrix has changed"
    return None


def packages(file: Path) -> str:
    """The packages of a lock's file as they are written there."""
    return _text(file).removeprefix(HEADER)


def names(file: Path) -> frozenset[str]:
    """The packages of a lock file, by canonical name; empty where there is no such file."""
    return _names(_text(file)) if file.is_file() else frozenset()


@cache
def _names(requirements: str) -> frozenset[str]:
    return frozenset(entry.name for entry in entries(requirements))


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _text(file: Path) -> str:
    seen = file.stat()
    return _read(file, seen.st_mtime_ns, seen.st_size)


def _record(folder: Path) -> dict[str, Any]:
    """What is kept beside the locks of a folder; nothing where it is damaged or not there."""
    try:
        found = json.loads(_text(folder / RECORD))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@cache
def _read(file: Path, _changed: int, _size: int) -> str:
    return file.read_text()


def state(cell: Cell, root: Path) -> str:
    """`locked`, `unlocked`, `stale` where the matrix has moved on, `incomplete` where a part is missing."""
    asked = request(cell)
    faults = {fault(root / group_file(cell, group), asked) for group in cell.groups}
    if faults == {None}:
        return "incomplete" if missing(cell, root) else "locked"
    return "unlocked" if faults == {"is missing"} else "stale"


def missing(cell: Cell, root: Path) -> str | None:
    """What was out of reach when the cell was locked; None where nothing was, or there is no lock."""
    return _record(root / cell.folder).get("out of reach")


def stood_in(cell: Cell, root: Path) -> bool:
    """Whether another build of the framework is locked in place of one that was out of reach."""
    return bool(missing(cell, root)) and (root / stand_in_file(cell)).is_file()


def check(cell: Cell, matrix: Matrix, root: Path, *, stand_ins: bool = False) -> None:
    """Raise HfdlcError where a lock of the cell cannot be used, or lacks what nothing stands for."""
    questions = {group_file(cell, group): request(cell) for group in cell.groups}
    if stand_ins and stood_in(cell, root):
        questions[stand_in_file(cell)] = request(cell)
    questions[INSTALLER_FILE] = installer_request(matrix)
    for file, asked in questions.items():
        if problem := fault(root / file, asked):
            raise HfdlcError(f"the lock file {problem}", location=file, hint=f"hfdlc lock {cell.id}")
    lacking = missing(cell, root)
    if lacking and not (stand_ins and stood_in(cell, root)):
        raise HfdlcError(
            f"its lock is incomplete: {lacking} was unreachable when it was made",
            location=cell.id,
            hint=f"run `hfdlc lock {cell.id}` on a machine that can reach it, and commit the lock",
        )


@cache
def name_of(requirement: str) -> str:
    """The canonical name of the package that a requirement asks for."""
    return canonicalize_name(Requirement(requirement).name)


def toolkit_version(root: Path) -> str:
    """The version of the toolkit's sources: it is built from them, so no lock names it."""
    with (root / "toolkit" / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])
