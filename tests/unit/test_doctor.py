"""The doctor's findings fit one screen, and say what to do."""

from pathlib import Path
from typing import Any

import pytest

import fake_engine
from hfdlc.build import bases as base
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
