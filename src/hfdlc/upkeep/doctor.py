"""Checking that this machine has what builds need."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import uv

from hfdlc import project
from hfdlc.build import bases as base
from hfdlc.engine import buildx, context, debian, detect, private
from hfdlc.engine.detect import Engine
from hfdlc.engine.folders import Folders
from hfdlc.errors import HfdlcError, without_logins
from hfdlc.locks.indexes import index_config
from hfdlc.process import run
from hfdlc.state import State

ROOM = 15e9  # bytes for the first cell, its base image, the engine and caches
PATIENCE = 20  # seconds to wait for a package index


@dataclass(frozen=True)
class Finding:
    """The state of one thing that builds need."""

    name: str
    state: Literal["ok", "warning", "missing"]
    found: str
    advice: str = ""


def examine(environ: Mapping[str, str], state: State, folder: Path = Path()) -> list[Finding]:
    """Examine this machine. Failures are findings, not errors. `folder`: in the project."""
    return [
        _python(),
        _uv(),
        _user(),
        *_attempt("Docker engine", lambda: [machine_engine(environ)]),
        our_engine(state),
        *builder(environ, state),
        *_attempt("engine in use", lambda: _of_engine(environ, state, folder)),
        *_attempt("package index", lambda: [_packages(environ)]),
        *_attempt("disk", lambda: [disk_space(state)]),
    ]


def _attempt(name: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a look finds; an error becomes a finding with this name."""
    try:
        return list(look())
    except HfdlcError as error:
        place = f"{error.location}: " if error.location else ""
        last = error.message.strip().splitlines()[-1].strip()  # programs end with the reason
        return [Finding(name, "missing", f"{place}{last}", error.hint)]


def screen(findings: Sequence[Finding]) -> str:
    """The findings as text, each with its advice."""
    return "\n".join(_lines(findings))


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        yield f"{finding.state:8} {finding.name:16} {finding.found}"
        if finding.advice:
            yield f"{'':8} {'':16} -> {finding.advice}"


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")


def _uv() -> Finding:
    try:
        return Finding("uv", "ok", run([uv.find_uv_bin(), "--version"]).stdout.strip())
    except (HfdlcError, FileNotFoundError) as error:
        return Finding("uv", "missing", str(error), "run `make setup`; `hfdlc lock` needs it")


def _user() -> Finding:
    if os.geteuid():
        return Finding("user", "ok", "not root: builds need a running Docker engine")
    return Finding("user", "ok", "root")


def machine_engine(environ: Mapping[str, str]) -> Finding:
    """The engine that the Docker CLI would use."""
    where = context.of_machine(environ)
    answer = detect.query(where)
    if not answer:
        return Finding("Docker engine", "warning", f"no answer at {where.host}")
    if not answer.is_recent:
        found = f"{answer.version} at {where.host} is too old and is not used"
        return Finding("Docker engine", "warning", found, f"install {detect.TOO_OLD}")
    if not answer.has_buildkit:
        found = f"{answer.version} at {where.host} has no BuildKit and is not used"
        return Finding("Docker engine", "warning", found, f"install {detect.TOO_OLD}")
    return Finding("Docker engine", "ok", f"{answer.version} at {where.host}")


def our_engine(state: State) -> Finding:
    """Whether the private engine runs, or can be started."""
    if pid := private.running(state):
        return Finding("private engine", "ok", f"process {pid} at {Folders.of(state).address.host}")
    try:
        private.check_machine(state)
        codename = debian.release().codename
    except HfdlcError as error:
        return Finding("private engine", "warning", f"cannot be started: {error.message}", error.hint)
    return Finding(
        "private engine", "ok", f"not running; starts when needed, from Debian packages ({codename})"
    )


def _of_engine(environ: Mapping[str, str], state: State, folder: Path) -> list[Finding]:
    """The engine in use, and findings that need it."""
    engine = detect.find(environ, state)
    if not engine:
        advice = "run `hfdlc engine start`, or start Docker"
        return [Finding("engine in use", "missing", "none", advice)]
    kind = "private" if engine.private else "Docker engine of this machine"
    found = f"{kind}, Docker {engine.version}, BuildKit {engine.buildkit}"
    registries = _attempt("registry", lambda: _registries(engine, state, folder))
    return [Finding("engine in use", "ok", found), _buildx(engine), *registries]


def builder(environ: Mapping[str, str], state: State) -> list[Finding]:
    """The builder that BUILDX_BUILDER names; nothing if that is the engine's."""
    try:
        found = buildx.named(environ, state)
    except HfdlcError as error:
        return [Finding("builder", "missing", error.message, error.hint)]
    return [Finding("builder", "ok", f"{found.name}, BuildKit {found.version}")] if found else []


def _buildx(engine: Engine) -> Finding:
    return Finding("buildx", "ok", f"{detect.buildx_version(engine.buildx)} ({' '.join(engine.buildx)})")


def _registries(engine: Engine, state: State, folder: Path) -> Iterator[Finding]:
    """Whether the registries of the base images are reachable."""
    try:
        cells = project.find(folder.absolute()).cells
    except HfdlcError as error:
        yield Finding("matrix", "missing", str(error).splitlines()[0], error.hint)
        return
    bases = {cell.base_image(): cell.bootstrap is not None for cell in cells}
    for name in sorted({image.partition("/")[0] for image in bases}):
        own = {image: known for image, known in bases.items() if image.startswith(f"{name}/")}
        yield registry(name, own, engine, state)


def registry(name: str, bases: Mapping[str, bool], engine: Engine, state: State) -> Finding:
    """Whether the engine can pull base images from a registry (cached for some minutes).

    `bases`: whether an equivalent of each can be built from Debian packages.
    """
    missing = [image for image in sorted(bases) if not base.published(image, engine, state)]
    found = f"{name}: {len(bases) - len(missing)} of {len(bases)} base images are available"
    if not missing:
        return Finding("registry", "ok", found)
    if lost := [image for image in missing if not bases[image]]:
        return Finding("registry", "warning", found, f"cells cannot be built on {', '.join(lost)}")
    return Finding("registry", "warning", found, "equivalent images are built from Debian packages")


def _packages(environ: Mapping[str, str]) -> Finding:
    sources = index_config(environ)
    parts = [sources.index or "pip's default index", *sources.extra_indexes]
    parts += [f"wheels in {folder}" for folder in sources.wheel_folders]
    try:
        run([sys.executable, "-m", "pip", "index", "versions", "uv"], timeout=PATIENCE)
    except HfdlcError as error:
        said = error.message.strip().splitlines()[-1].strip()
        return Finding("package index", "missing", said, "check the index that `pip config list` prints")
    return Finding("package index", "ok", without_logins(", ".join(parts)))


def disk_space(state: State) -> Finding:
    """The free space on the disk of the state folder."""
    free = shutil.disk_usage(state.folder(".")).free
    found = f"{free / 1e9:.0f} GB free at {state.root}"
    if free < ROOM:
        advice = (
            f"the first image needs up to {ROOM / 1e9:.0f} GB; set HFDLC_STATE to a folder on another disk"
        )
        return Finding("disk", "warning", found, advice)
    return Finding("disk", "ok", found)
