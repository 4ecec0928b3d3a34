"""Resolving packages with uv, and writing lock files."""

import importlib.metadata
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import requests
import uv
from packaging.requirements import Requirement
from requests.utils import should_bypass_proxies

from hfdlc.errors import CommandFailed, HfdlcError, UserError
from hfdlc.locks.indexes import IndexConfig
from hfdlc.locks.lockfile import (
    LockedPackage,
    LockInput,
    entries,
    fault,
    group_file,
    installer_file,
    installer_input,
    lock_input,
    name_of,
    text,
    write,
)
from hfdlc.matrix.axes import fits
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.schema import Matrix, Rest
from hfdlc.process import run
from hfdlc.state import State

# The patch releases to resolve for: uv takes `3.6` as 3.6.0.
PATCH_RELEASES = {"3.6": "3.6.15", "3.7": "3.7.16"}
PATIENCE = 5  # seconds to wait for a framework's page


@dataclass(frozen=True)
class Resolver:
    """uv with the package indexes of this machine."""

    sources: IndexConfig
    state: State
    environ: Mapping[str, str]

    def resolve(
        self, wanted: LockInput, requirements: Iterable[str], held: str = "", *, page: bool = True
    ) -> tuple[LockedPackage, ...]:
        """Pin and hash the requirements and their dependencies; `held` are constraints.

        Raises HfdlcError with uv's explanation if there is no solution.
        """
        with tempfile.TemporaryDirectory() as folder:
            # The marker is never true, so that the package is not installed.
            overrides = f"{wanted.replaces}; sys_platform == 'never'" if wanted.replaces else ""
            files = {"requirements": "\n".join(requirements), "constraints": held, "overrides": overrides}
            for name, content in files.items():
                Path(folder, name).write_text(content + "\n")
            argv = [_program(), "--no-config", "pip", "compile", f"{folder}/requirements", "--quiet"]
            argv += ["--constraints", f"{folder}/constraints", "--overrides", f"{folder}/overrides"]
            argv += [*self._arguments(wanted), *(self._page(wanted) if page else [])]
            try:
                return entries(run(argv, env=self._environment()).stdout)
            except CommandFailed as error:
                raise _unresolved(wanted, error) from error

    def reaches(self, wanted: LockInput) -> bool:
        """Whether the framework's source is reachable.

        Raises HfdlcError if it is and does not have this version.
        """
        if wanted.image or not wanted.page:
            return not wanted.image
        try:
            self.resolve(wanted, wanted.framework[:1])
        except HfdlcError:
            if self._answers(wanted.page):
                raise
            return False
        return True

    def _arguments(self, wanted: LockInput) -> list[str]:
        return [
            *("--generate-hashes", "--no-header", "--no-annotate", "--only-binary", ":all:"),
            *(word for name in wanted.sources_only for word in ("--no-binary", name)),
            *("--python-version", PATCH_RELEASES.get(wanted.python, wanted.python)),
            *("--python-platform", wanted.platform, "--exclude-newer", _end_of(wanted.cutoff)),
            *self.sources.uv_arguments(),
        ]

    def _page(self, wanted: LockInput) -> list[str]:
        """The framework's page if it answers, else the wheel folders of this machine.

        Folders are used only for frameworks with a page: a folder's `2.13.0+cpu` would also satisfy
        `torch==2.13.0`, which is the CUDA build on the index.
        """
        if not wanted.page:
            return []
        found = self._answers(wanted.page)
        return ["--find-links", wanted.page] if found else self.sources.wheel_arguments()

    def _answers(self, page: str) -> bool:
        """Whether a page answers, with the proxies and certificates that uv gets."""
        known, client = self.sources.proxies or {}, self.sources.client_certificate
        trusted = {urlsplit(page).hostname, urlsplit(page).netloc} & {*self.sources.trusted_hosts}
        bundle = str(self.sources.certificates) if self.sources.certificates else True
        bypassed = should_bypass_proxies(page, known.get("no_proxy") or known.get("NO_PROXY"))
        schemes = () if bypassed else ("http", "https")
        proxies = {each: known.get(f"{each}_proxy") or known.get(f"{each}_proxy".upper()) for each in schemes}
        try:
            with requests.get(
                page,
                timeout=PATIENCE,
                stream=True,
                proxies={scheme: proxy for scheme, proxy in proxies.items() if proxy},
                verify=False if trusted else bundle,
                cert=str(client) if client else None,
            ) as answer:
                return answer.ok
        except OSError:
            return False

    def _environment(self) -> dict[str, str]:
        """Without the user's settings of uv and pip: they would choose other packages."""
        bundle = self.sources.certificates
        certificates = {"SSL_CERT_FILE": str(bundle)} if bundle else {}
        if client := self.sources.client_certificate:
            certificates["SSL_CLIENT_CERT"] = str(client)
        others = {name: value for name, value in self.environ.items() if not name.startswith(("UV_", "PIP_"))}
        cache = str(self.state.folder("uv"))
        return {**others, **(self.sources.proxies or {}), **certificates, "UV_CACHE_DIR": cache}


@cache
def _program() -> str:
    """The program uv; raises HfdlcError if it is not the release that locks are made with."""
    program = uv.find_uv_bin()
    found = run([program, "--version"]).stdout.split()[1]
    requirements = map(Requirement, importlib.metadata.requires("hfdlc") or [])
    wanted = next(str(each.specifier) for each in requirements if each.name == "uv").removeprefix("==")
    if found != wanted:
        raise HfdlcError(
            f"locks are made with uv {wanted}, and this is {found}, which may make other locks",
            location=program,
            hint=f"pip install uv=={wanted}, or `make setup`",
        )
    return program


def _end_of(day: str) -> str:
    """The end of a day in UTC. A date alone would end with the day of this machine's time zone."""
    return f"{date.fromisoformat(day) + timedelta(days=1)}T00:00:00Z"


def _unresolved(wanted: LockInput, error: CommandFailed) -> HfdlcError:
    reason = error.output.strip()
    if "Failed to fetch" in reason or "error sending request" in reason or "dns error" in reason:
        return HfdlcError(
            f"a package index is unreachable:\n{reason}",
            hint="check the network, and the index that `pip config list` prints",
        )
    folder = (
        f"; the wheel of the framework comes from {wanted.page}, or from pip's find-links"
        if wanted.page
        else ""
    )
    return HfdlcError(
        f"no solution for Python {wanted.python} on {wanted.platform}, as of {wanted.cutoff}:\n{reason}",
        hint=f"change the versions in matrix.yaml{folder}",
    )


def lock(cell: Cell, matrix: Matrix, root: Path, resolver: Resolver) -> str:
    """Resolve a cell and write one lock file for each layer group; returns the unreachable source, if any.

    If the framework's source is unreachable, its dependencies are those of the package index's build of the
    same version, and the framework itself is not locked.
    """
    wanted = lock_input(cell)
    missing = "" if resolver.reaches(wanted) else f"{wanted.framework[0]} from {wanted.image or wanted.page}"
    chosen = _groups(_of_the_index(wanted) if missing else wanted, resolver, page=not missing)
    if empty := [group for group in cell.groups if not chosen[group]]:
        raise UserError(
            f"the layer group {empty[0]!r} is empty in {cell.id}",
            location=matrix.document.where(("groups", empty[0])),
            hint="limit the group to other cells with `when`, or remove it",
        )
    # The index's build is for CUDA, and a cell for CPUs has nothing that only CUDA needs.
    dropped = [name_of(wanted.framework[0]), *([] if cell.cuda else _of_cuda(matrix))] if missing else []
    files = {
        group_file(cell, group): text(
            [entry for entry in chosen[group] if not any(fnmatchcase(entry.name, name) for name in dropped)]
        )
        for group in cell.groups
    }
    write(files, wanted, root, missing)
    return missing


def _of_cuda(matrix: Matrix) -> list[str]:
    """The packages of layer groups that no cell for CPUs has."""
    groups = matrix.file.groups.values()
    return [
        name
        for group in groups
        if not fits("device", "cpu", group.when.get("device", "cpu"))
        for name in group.packages
    ]


def _of_the_index(wanted: LockInput) -> LockInput:
    """The request for the package index's build of the framework: `1.7.1` for `1.7.1+cu110`."""

    def plain(requirements: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            re.sub(r"\+\w+$", "", each) if each in wanted.framework else each for each in requirements
        )

    return replace(
        wanted,
        requirements=plain(wanted.requirements),
        libraries=plain(wanted.libraries),
        framework=plain(wanted.framework),
    )


def _groups(wanted: LockInput, resolver: Resolver, *, page: bool) -> dict[str, list[LockedPackage]]:
    """The packages of the request by layer group, with versions that suit all types of the release."""
    everything = resolver.resolve(wanted, (*wanted.requirements, *wanted.beside), page=page)
    held = "\n".join(f"{entry.name}=={entry.version}" for entry in everything)

    def needed(requirements: Sequence[str]) -> set[str]:
        return {entry.name for entry in resolver.resolve(wanted, requirements, held, page=page)}

    required = needed(wanted.requirements)
    needs: dict[Rest, set[str]] = {
        # The framework's dependencies change more often than the framework, so they are libraries.
        "framework": {name_of(text) for text in wanted.framework},
        "libraries": needed(wanted.libraries),
        "type": needed([each for each in wanted.requirements if each not in wanted.toolkit]),
        "toolkit": required,
    }
    groups = dict(wanted.rest)
    layers = {groups[rest]: names for rest, names in needs.items()}
    found: dict[str, list[LockedPackage]] = defaultdict(list)
    for entry in everything:
        if entry.name in required:
            found[group_of(entry.name, wanted.named, layers)].append(entry)
    return found


def group_of(name: str, named: Sequence[tuple[str, str]], layers: Mapping[str, set[str]]) -> str:
    """The first layer group that names a package, else the first one that requires it."""
    for pattern, group in named:
        if fnmatchcase(name, pattern):
            return group
    return next(group for group, needs in layers.items() if name in needs)


def lock_installer(matrix: Matrix, python: str, root: Path, resolver: Resolver) -> bool:
    """Resolve the tools that install packages for a Python; False if their lock is current."""
    wanted, file = installer_input(matrix, python), installer_file(python)
    if not fault(root / file, wanted):
        return False
    locked = resolver.resolve(wanted, wanted.requirements)
    write({file: text(locked)}, wanted, root)
    return True
