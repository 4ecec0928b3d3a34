"""Locks: a cell's packages, every one pinned and hashed by uv, split by layer group."""

import hashlib
import json
import re
import tempfile
import tomllib
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import uv
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hfdlc.cells import Cell
from hfdlc.errors import CommandFailed, HfdlcError
from hfdlc.machine import PackageSources
from hfdlc.matrix import GROUPS, Matrix
from hfdlc.process import run
from hfdlc.state import State, write_whole

# Python's own releases that stand for a minor version: `3.6` alone would mean 3.6.0.
PATCH_RELEASES = {"3.6": "3.6.15", "3.7": "3.7.16"}
ENTRY = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;\\]+)")


@dataclass(frozen=True)
class Entry:
    """One locked package, with the text that uv wrote for it (its hashes)."""

    name: str
    version: str
    text: str


@dataclass(frozen=True)
class Request:
    """What uv is asked to resolve."""

    requirements: tuple[str, ...]
    python: str
    platform: str
    cutoff: str  # ISO date
    page: str | None = None
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def digest(self) -> str:
        """Changes whenever the same question would have to be asked again."""
        return "sha256:" + hashlib.sha256(json.dumps(vars(self), sort_keys=True).encode()).hexdigest()


def request(cell: Cell, matrix: Matrix) -> Request:
    """The question whose answer is the cell's lock."""
    groups = matrix.file.groups
    return Request(
        requirements=(*cell.requirements(), *groups.toolkit),
        python=cell.python,
        platform=cell.base.platform,
        cutoff=cell.cutoff.isoformat(),
        page=cell.source.page,
        groups=tuple((name, tuple(getattr(groups, name))) for name in GROUPS),
    )


def installer_request(cell: Cell, matrix: Matrix) -> Request:
    """The question for what installs the packages: one lock for each Python."""
    newest = max(release.cutoff for release in matrix.file.releases)
    requires = tuple(matrix.file.installer.requires)
    return Request(requires, cell.python, cell.base.platform, newest.isoformat())


def installer_file(cell: Cell) -> str:
    """Where the installer's lock is, below the repository's root."""
    return f"images/installer-py{cell.python.replace('.', '')}.lock"


def group_file(cell: Cell, group: str) -> str:
    """Where a layer group's lock is, below the repository's root."""
    return f"{cell.folder}/{group}.lock"


@dataclass(frozen=True)
class Resolver:
    """uv on this machine."""

    sources: PackageSources
    state: State

    def resolve(
        self, asked: Request, requirements: Iterable[str], constraints: str = ""
    ) -> tuple[Entry, ...]:
        """Pin and hash what the requirements need.

        Raises HfdlcError with uv's own explanation where that cannot be.
        """
        with tempfile.TemporaryDirectory() as folder:
            wanted, held = Path(folder, "requirements.in"), Path(folder, "constraints.txt")
            wanted.write_text("\n".join(requirements) + "\n")
            held.write_text(constraints)
            argv = [uv.find_uv_bin(), "pip", "compile", str(wanted), "--constraints", str(held), "--quiet"]
            argv += ["--generate-hashes", "--no-header", "--no-annotate", "--only-binary", ":all:"]
            argv += ["--python-version", PATCH_RELEASES.get(asked.python, asked.python)]
            argv += ["--python-platform", asked.platform, "--exclude-newer", asked.cutoff]
            argv += [*self.sources.uv_arguments(), *self._page(asked)]
            try:
                return entries(run(argv, env=self._environment()).stdout)
            except CommandFailed as error:
                raise _unresolved(asked, error) from error

    def _page(self, asked: Request) -> list[str]:
        """The framework's own page where it answers, else the wheel folders of this machine.

        Only a framework with a page of its own may come from a folder: `torch==2.13.0` of the index is the
        CUDA build, and a folder's `2.13.0+cpu` would pass for it.
        """
        if not asked.page:
            return []
        try:
            with urllib.request.urlopen(asked.page, timeout=5):  # noqa: S310 - the matrix names it
                return ["--find-links", asked.page]
        except OSError:
            return self.sources.wheel_arguments()

    def _environment(self) -> dict[str, str]:
        bundle = self.sources.certificates
        certificates = {"SSL_CERT_FILE": str(bundle)} if bundle else {}
        return {"UV_CACHE_DIR": str(self.state.folder("uv")), **certificates}


def _unresolved(asked: Request, error: CommandFailed) -> HfdlcError:
    reason = error.output.strip()
    what = f"no lock for Python {asked.python} on {asked.platform}, packages of {asked.cutoff}:\n{reason}"
    if "Failed to fetch" in reason or "error sending request" in reason or "dns error" in reason:
        return HfdlcError(
            f"a package index is out of reach:\n{reason}",
            then="`pip config list` shows which index is configured; mend that, or the network",
        )
    here = (
        f", or put its wheel into a folder that pip's find-links names (its home is {asked.page})"
        if asked.page
        else ""
    )
    return HfdlcError(what, then=f"change the versions in matrix.yaml{here}")


def lock(cell: Cell, matrix: Matrix, root: Path, resolver: Resolver) -> None:
    """Resolve a cell once, split the answer by layer group, and write one file a group."""
    asked = request(cell, matrix)
    everything = resolver.resolve(asked, asked.requirements)
    held = "\n".join(f"{entry.name}=={entry.version}" for entry in everything)

    def needed(requirements: Sequence[str]) -> set[str]:
        return {entry.name for entry in resolver.resolve(asked, requirements, held)}

    framework = needed(cell.requirements()[:1])
    without_toolkit = needed(cell.requirements())
    named: dict[str, str] = {
        canonicalize_name(name): group for group, names in asked.groups for name in names
    }
    for group in GROUPS:
        mine = [e for e in everything if group == _group(e.name, named, framework, without_toolkit)]
        title = f"The {group} packages of {cell.id}"
        write_whole(root / group_file(cell, group), text(title, asked, mine))


def _group(name: str, named: Mapping[str, str], framework: set[str], without_toolkit: set[str]) -> str:
    if name in named:
        return named[name]
    if name in framework:
        return "framework"
    return "libraries" if name in without_toolkit else "toolkit"


def lock_installer(cell: Cell, matrix: Matrix, root: Path, resolver: Resolver) -> None:
    """Resolve what installs the packages."""
    asked = installer_request(cell, matrix)
    title = f"What installs the packages of Python {cell.python}"
    write_whole(root / installer_file(cell), text(title, asked, resolver.resolve(asked, asked.requirements)))


def text(title: str, asked: Request, locked: Sequence[Entry]) -> str:
    """A lock's file: hashed requirements, below the digests of the question and of the answer."""
    body = "".join(f"{entry.text}\n" for entry in locked)
    content = hashlib.sha256(body.encode()).hexdigest()
    return (
        f"# {title}: written by `hfdlc lock`, not by hand.\n"
        f"# asked: {asked.digest()}\n# content: sha256:{content}\n{body}"
    )


def entries(requirements: str) -> tuple[Entry, ...]:
    """The packages of a hashed requirements file."""
    blocks = re.split(r"\n(?=\S)", requirements.strip())
    matches = ((ENTRY.match(block), block) for block in blocks)
    return tuple(Entry(canonicalize_name(m["name"]), m["version"], block) for m, block in matches if m)


def read(cell: Cell, root: Path) -> dict[str, tuple[Entry, ...]]:
    """The cell's locked packages by layer group; empty where it has no lock."""
    files = {group: root / group_file(cell, group) for group in GROUPS}
    if not all(file.is_file() for file in files.values()):
        return {}
    return {group: entries(file.read_text()) for group, file in files.items()}


def fault(file: Path, asked: Request) -> str | None:
    """Why a lock cannot be used: missing, of another question, or edited by hand; None where it can."""
    if not file.is_file():
        return "is not there"
    header, body = _parts(file.read_text())
    if header.get("content") != "sha256:" + hashlib.sha256(body.encode()).hexdigest():
        return "was edited by hand"
    if header.get("asked") != asked.digest():
        return "does not belong to the matrix any more"
    return None


def _parts(content: str) -> tuple[dict[str, str], str]:
    lines = content.splitlines(keepends=True)
    head = [line for line in lines if line.startswith("# ")]
    pairs = (line[2:].strip().partition(": ") for line in head)
    return {key: value for key, _, value in pairs}, "".join(lines[len(head) :])


def state(cell: Cell, matrix: Matrix, root: Path) -> str:
    """`locked`, `unlocked`, or `stale` where the matrix has moved on."""
    asked = request(cell, matrix)
    faults = {fault(root / group_file(cell, group), asked) for group in GROUPS}
    if faults == {None}:
        return "locked"
    return "unlocked" if faults == {"is not there"} else "stale"


def check(cell: Cell, matrix: Matrix, root: Path) -> None:
    """Raise HfdlcError where a lock of the cell cannot be used."""
    questions = {group_file(cell, group): request(cell, matrix) for group in GROUPS}
    questions[installer_file(cell)] = installer_request(cell, matrix)
    for file, asked in questions.items():
        if problem := fault(root / file, asked):
            raise HfdlcError(f"the lock {problem}", where=file, then=f"hfdlc lock {cell.id}")


def name_of(requirement: str) -> str:
    """The canonical name of the package that a requirement asks for."""
    return canonicalize_name(Requirement(requirement).name)


def toolkit_version(root: Path) -> str:
    """The version of the toolkit's sources: it is built from them, so no lock names it."""
    with (root / "toolkit" / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])
