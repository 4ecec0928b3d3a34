"""What was found on this machine, what is missing, and what to do about it."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import uv

from hfdlc import apt, engine, private_engine
from hfdlc.errors import HfdlcError
from hfdlc.machine import package_sources
from hfdlc.process import run
from hfdlc.state import State

ROOM = 15e9  # bytes that the first cell, its base, the engine and its cache take, with room to move


@dataclass(frozen=True)
class Finding:
    """One thing that the builder needs, and how it stands."""

    name: str
    state: Literal["ok", "warning", "missing"]
    found: str
    advice: str = ""


def examine(environ: Mapping[str, str], state: State) -> list[Finding]:
    """Look at everything once; what is broken is a finding, never an error."""
    return [_python(), _uv(), _engine(environ), _private_engine(state), _packages(environ), _room(state)]


def screen(findings: Sequence[Finding]) -> str:
    """The findings for people, a line each, and what to do below."""
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
        return Finding("uv", "missing", str(error), "`make setup` installs it; only `hfdlc lock` needs it")


def _engine(environ: Mapping[str, str]) -> Finding:
    host = engine.host_of_machine(environ)
    answer = engine.ask(host)
    if not answer:
        return Finding("engine", "warning", f"nothing answers at {host}", "a private one is used instead")
    if not answer.is_recent:
        advice = f"Docker {engine.OLDEST_ENGINE} or newer is needed; a private one is used instead"
        return Finding("engine", "warning", f"{answer.version} at {host} is too old", advice)
    return Finding("engine", "ok", f"{answer.version} at {host}")


def _private_engine(state: State) -> Finding:
    if pid := private_engine.running(state):
        return Finding("private engine", "ok", f"runs (process {pid}) below {state.root}")
    try:
        release = apt.release()
    except HfdlcError as error:
        return Finding("private engine", "missing", error.what, "start Docker; DOCKER_HOST names it")
    if os.geteuid():
        return Finding("private engine", "missing", "needs root", "run this as root, or start Docker")
    return Finding("private engine", "ok", f"can be started (packages of {release.codename}, as root)")


def _packages(environ: Mapping[str, str]) -> Finding:
    sources = package_sources(environ)
    parts = [sources.index or "pip's default index", *sources.extra_indexes]
    parts += [f"wheels in {folder}" for folder in sources.wheel_folders]
    try:
        run([sys.executable, "-m", "pip", "index", "versions", "uv"])
    except HfdlcError as error:
        return Finding(
            "package index", "missing", error.what.splitlines()[-1].strip(), "see `pip config list`"
        )
    return Finding("package index", "ok", ", ".join(parts))


def _room(state: State) -> Finding:
    free = shutil.disk_usage(state.folder(".")).free
    found = f"{free / 1e9:.0f} GB free at {state.root}"
    if free < ROOM:
        return Finding(
            "disk", "warning", found, f"the first image needs up to {ROOM / 1e9:.0f} GB; HFDLC_STATE moves it"
        )
    return Finding("disk", "ok", found)
