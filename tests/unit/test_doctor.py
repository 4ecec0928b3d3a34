"""The doctor's findings fit one screen, and say what to do."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

import fake_engine
from hfdlc.build import bases as base
from hfdlc.engine import debian, detect
from hfdlc.errors import CommandFailed, HfdlcError
from hfdlc.locks import indexes
from hfdlc.locks.indexes import IndexConfig
from hfdlc.state import State
from hfdlc.upkeep import doctor
from hfdlc.upkeep.doctor import Finding, screen


def test_a_finding_is_a_line_and_its_advice_another() -> None:
    """How it stands, what it is, what was found, what to do."""
    findings = [Finding("python", "ok", "3.11.2"), Finding("engine", "missing", "none", "start Docker")]
    assert screen(findings).splitlines() == [
        "ok       python           3.11.2",
        "missing  engine           none",
        "                          -> start Docker",
    ]


def test_doctor_warns_of_an_engine_that_is_too_old() -> None:
    """With its version and address, and the version that is needed."""
    with fake_engine.answering("20.10.24+dfsg1") as host:
        found = doctor.machine_engine({"DOCKER_HOST": host})
    assert found.state == "warning"
    assert found.found.startswith(f"20.10.24+dfsg1 at {host} is too old")
    assert "Docker 23.0 or newer" in found.advice


def test_doctor_names_an_engine_that_can_be_used() -> None:
    with fake_engine.answering("28.2.2") as host:
        found = doctor.machine_engine({"DOCKER_HOST": host})
    assert found == Finding("Docker engine", "ok", f"28.2.2 at {host}")


def test_without_root_there_is_no_private_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says why, and what else would do."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    found = doctor.our_engine(State(tmp_path))
    assert (found.state, found.advice.split(", or ")[1]) == ("warning", "run this as root")


def test_doctor_reports_reachable_and_unreachable_registries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreachable base is built from packages, or its cells cannot be built."""
    monkeypatch.setattr(base, "published", lambda image, *_: "sha256:1" if image == "a.example/b:1" else None)
    used: Any = None

    def finding(bases: dict[str, bool]) -> tuple[str, str, str]:
        found = doctor.registry("a.example", bases, used, State(tmp_path))
        return found.state, found.found, found.advice

    reached = "a.example: 1 of {} base images are available"
    assert finding({"a.example/b:1": False}) == ("ok", reached.format(1), "")
    made = "equivalent images are built from Debian packages"
    assert finding({"a.example/b:1": False, "a.example/c:1": True}) == ("warning", reached.format(2), made)
    lost = "cells cannot be built on a.example/c:1"
    assert finding({"a.example/b:1": True, "a.example/c:1": False}) == ("warning", reached.format(2), lost)


def test_doctor_warns_of_a_small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is free, where, and how to move it."""
    monkeypatch.setattr(doctor, "ROOM", 1e18)
    found = doctor.disk_space(State(tmp_path))
    assert found.state == "warning"
    assert str(tmp_path) in found.found
    assert "HFDLC_STATE" in found.advice


def fail(argv: list[str], **_: object) -> NoReturn:
    """What starts no program."""
    raise CommandFailed(argv, 1, "ERROR: a reason")


def test_failures_are_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Docker context that does not exist, programs that fail, a state folder that cannot be made."""
    (tmp_path / "file").touch()
    for module in (debian, detect, doctor, indexes):
        monkeypatch.setattr(module, "run", fail)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    found = doctor.examine({"DOCKER_CONTEXT": "missing"}, State(tmp_path / "file" / "state"))
    missing = {each.name: each.found for each in found if each.state == "missing"}
    assert missing["Docker engine"] == missing["engine in use"] == "Docker context 'missing': does not exist"
    assert missing["package index"] == "ERROR: a reason"
    assert missing["disk"].endswith("cannot be written to: Not a directory")


def test_engine_is_named_where_registries_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The credential helper of Docker's configuration may be missing."""

    def refuse(*_: object) -> NoReturn:
        raise HfdlcError("the credential helper failed", location="image", hint="install it")

    engine = SimpleNamespace(private=False, version="28", buildkit="0.25", buildx=("buildx",))
    monkeypatch.setattr(doctor, "_registries", refuse)
    monkeypatch.setattr(detect, "find", lambda *_: engine)
    monkeypatch.setattr(detect, "buildx_version", lambda _: "0.30")
    in_use, _, registry = doctor._of_engine({}, State(tmp_path), tmp_path)
    assert in_use.state == "ok"
    assert registry == Finding("registry", "missing", "image: the credential helper failed", "install it")


def test_doctor_prints_no_password_of_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output is what people send when they ask for help."""
    sources = IndexConfig("https://reader:sesame@index.example/simple", ("https://token@extra.example/",))
    monkeypatch.setattr(doctor, "index_config", lambda _: sources)
    monkeypatch.setattr(doctor, "run", lambda *_, **__: None)
    found = doctor._packages({}).found
    assert found == "https://reader:***@index.example/simple, https://***@extra.example/"
