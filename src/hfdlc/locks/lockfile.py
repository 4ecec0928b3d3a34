"""Lock files: the pinned and hashed packages of a cell, one file for each layer group.

`locked.json` beside them has digests of the request and of the files, so that faults are found offline.
"""

import json
import re
import tomllib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hfdlc.errors import HfdlcError
from hfdlc.locks import files
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.schema import Matrix, Rest
from hfdlc.state import write_whole

ENTRY = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;\\]+)")
# Equal for all lock files: BuildKit runs a stage once for files with the same bytes.
HEADER = "# Written by `hfdlc lock`, not by hand.\n"
# Has the digest of the request, the unreachable source, and the digests of the files.
RECORD = "locked.json"
INSTALLER_FOLDER, INSTALLER_PLATFORM = "images/installer", "x86_64-manylinux_2_28"

NO_LOCKS: Mapping[str, str] = {}


@dataclass(frozen=True)
class LockedPackage:
    """One locked package, with its lines in the file."""

    name: str
    version: str
    text: str


@dataclass(frozen=True)
class LockInput:
    """What a lock was resolved for."""

    requirements: tuple[str, ...]
    python: str
    platform: str
    cutoff: str  # ISO date
    framework: tuple[str, ...] = ()  # requirements from the framework's source
    libraries: tuple[str, ...] = ()  # requirements of every type of image
    toolkit: tuple[str, ...] = ()  # requirements of the toolkit only
    beside: tuple[str, ...] = ()  # requirements of other types, resolved together for equal versions
    named: tuple[tuple[str, str], ...] = ()  # package name or pattern -> layer group
    rest: tuple[tuple[Rest, str], ...] = ()  # `rest` -> layer group
    page: str | None = None
    image: str | None = None
    replaces: str | None = None
    sources_only: tuple[str, ...] = ()

    def digest(self) -> str:
        """A lock with another digest is stale."""
        return _digest(json.dumps(vars(self), sort_keys=True))


def lock_input(cell: Cell) -> LockInput:
    """The request that the cell's lock files are resolved for."""
    framework = cell.framework_requirements()
    return LockInput(
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


def installer_input(matrix: Matrix, python: str) -> LockInput:
    """The request for the tools that install packages and build the toolkit."""
    installer = matrix.file.installer
    return LockInput(tuple(installer.requires), python, INSTALLER_PLATFORM, installer.cutoff.isoformat())


def installer_file(python: str) -> str:
    """The lock file of the installer with a Python, relative to the repository."""
    return f"{INSTALLER_FOLDER}/py{python.replace('.', '')}/installer.lock"


def group_file(cell: Cell, group: str) -> str:
    """The lock file of a layer group, relative to the repository."""
    return f"{cell.folder}/{group}.lock"


def text(locked: Sequence[LockedPackage]) -> str:
    return HEADER + "".join(f"{entry.text}\n" for entry in locked)


def write(files: Mapping[str, str], wanted: LockInput, root: Path, missing: str = "") -> None:
    """Write the lock files of a folder (texts by path below the root) and `locked.json`; remove others."""
    for path, packages in files.items():
        write_whole(root / path, packages)
    note = {"unreachable": missing} if missing else {}
    content = {Path(path).name: _digest(packages) for path, packages in files.items()}
    record = json.dumps({"request": wanted.digest(), **note, "content": content}, indent=1)
    folder = (root / next(iter(files))).parent
    write_whole(folder / RECORD, record + "\n")
    for stray in strays(folder, content):
        stray.unlink()


def strays(folder: Path, names: Container[str]) -> list[Path]:
    """The lock files in a folder with other names: of layer groups that were removed."""
    return sorted(file for file in folder.glob("*.lock") if file.name not in names)


def entries(requirements: str) -> tuple[LockedPackage, ...]:
    blocks = re.split(r"\n(?=\S)", requirements.strip())
    matches = ((ENTRY.match(block), block) for block in blocks)
    return tuple(
        LockedPackage(canonicalize_name(m["name"]), m["version"], block) for m, block in matches if m
    )


def read(cell: Cell, root: Path) -> dict[str, tuple[LockedPackage, ...]]:
    """The cell's locked packages by layer group; empty if a file is missing."""
    files = {group: root / group_file(cell, group) for group in cell.groups}
    if not all(file.is_file() for file in files.values()):
        return {}
    return {group: entries(file.read_text()) for group, file in files.items()}


def fault(file: Path, wanted: LockInput) -> str | None:
    """Why a lock file cannot be used: missing, edited, or out of date; None if it can."""
    return _fault(str(file), _record(str(file.parent)), wanted.digest())


def faults(cell: Cell, root: Path) -> dict[str, str]:
    """The lock files of a cell that cannot be used (paths below the root), each with the reason."""
    request, record = lock_input(cell).digest(), _record(f"{root}/{cell.folder}")
    files = (group_file(cell, group) for group in cell.groups)
    found = {file: _fault(f"{root}/{file}", record, request) for file in files}
    return {file: why for file, why in found.items() if why}


def _fault(file: str, known: Mapping[str, Any], request: str) -> str | None:
    try:
        found = digest(file)
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    if known.get("content", {}).get(file.rpartition("/")[2]) != found:
        return "was edited by hand"
    if known.get("request") != request:
        return "is out of date: the matrix has changed"
    return None


def digest(file: Path | str) -> str:
    """The digest of a lock file."""
    return files.digest(str(file))


class Locked(NamedTuple):
    """The digest of a lock file, and the canonical names of its packages."""

    digest: str
    names: frozenset[str]


def locked(file: Path | str) -> Locked | None:
    """What a lock file has; None if there is no such file."""
    try:
        found = digest(file)
        return _LOCKED.get(found) or _parse(Path(file).read_bytes())
    except FileNotFoundError:
        return None


def names(file: Path | str) -> frozenset[str]:
    """The canonical names of a lock file's packages; empty if there is no such file."""
    found = locked(file)
    return found.names if found else frozenset()


_LOCKED: dict[str, Locked] = {}  # by digest: many cells lock the same packages


def _parse(content: bytes) -> Locked:
    found = Locked(files.digest_of(content), frozenset(each.name for each in entries(content.decode())))
    return _LOCKED.setdefault(found.digest, found)


def _digest(text: str) -> str:
    return files.digest_of(text.encode())


def _record(folder: str) -> dict[str, Any]:
    """The content of `locked.json`; empty if it is missing or damaged."""
    try:
        with open(f"{folder}/{RECORD}", "rb", buffering=0) as opened:  # noqa: PTH123
            return _parsed(opened.read())
    except (OSError, ValueError):
        return {}


@cache
def _parsed(content: bytes) -> dict[str, Any]:
    found = json.loads(content)
    return found if isinstance(found, dict) else {}


def state(cell: Cell, root: Path) -> str:
    """`locked`, `unlocked`, `stale` (the matrix has changed) or `incomplete` (a source was unreachable)."""
    found = faults(cell, root)
    if not found:
        return "incomplete" if missing(cell, root) else "locked"
    return "unlocked" if len(found) == len(cell.groups) and {*found.values()} == {"is missing"} else "stale"


def missing(cell: Cell, root: Path) -> str | None:
    """The source that was unreachable when the cell was locked, if any."""
    return _record(f"{root}/{cell.folder}").get("unreachable")


def check(cell: Cell, matrix: Matrix, root: Path, replaced: Mapping[str, str] = NO_LOCKS) -> None:
    """Raise HfdlcError if a lock file of the cell cannot be used, or lacks what was unreachable.

    Lock files of groups in `replaced` are not used.
    """
    questions = {group_file(cell, group): lock_input(cell) for group in cell.groups if group not in replaced}
    questions[installer_file(cell.installer_python)] = installer_input(matrix, cell.installer_python)
    for file, wanted in questions.items():
        if problem := fault(root / file, wanted):
            raise HfdlcError(f"the lock file {problem}", location=file, hint=f"hfdlc lock {cell.id}")
    lacking = missing(cell, root)
    if lacking and not replaced:
        raise HfdlcError(
            f"its lock is incomplete: {lacking} was unreachable when it was made",
            location=cell.id,
            hint=f"run `hfdlc lock {cell.id}` on a machine that can reach it, and commit the lock",
        )


@cache
def name_of(requirement: str) -> str:
    """The canonical name of a requirement's package."""
    return canonicalize_name(Requirement(requirement).name)


def toolkit_version(root: Path) -> str:
    """The version of the toolkit, which is built from sources and is in no lock file."""
    with (root / "toolkit" / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])
