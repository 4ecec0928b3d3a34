"""A test that uses a container engine has the marker `engine`; one that does not have it cannot reach any."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hfdlc.engine import detect, private
from hfdlc.engine.detect import Engine
from hfdlc.state import State

FIXTURES = {"session", "used_engine"}
NOWHERE = "unix:///nowhere.sock"
MESSAGE = "a test without the marker `engine` uses a container engine"


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that request the engine as a fixture."""
    for item in items:
        if FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("engine")


@pytest.fixture(autouse=True)
def no_engine_without_marker(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Fail a test without the marker if it finds or starts an engine, itself or in a command that it runs."""
    if request.node.get_closest_marker("engine"):
        return
    find, start = detect.find, subprocess.Popen.__init__

    def checked_find(environ: Mapping[str, str], state: State) -> Engine | None:
        engine = find(environ, state)
        if engine:
            pytest.fail(f"{MESSAGE}: {engine.host}")
        return engine

    def checked_start(process: subprocess.Popen[str], argv: Any, *more: Any, **options: Any) -> None:
        if Path(argv if isinstance(argv, str) else argv[0]).name == "dockerd":
            pytest.fail(f"{MESSAGE}: {argv}")
        start(process, argv, *more, **options)

    monkeypatch.setattr(detect, "find", checked_find)
    monkeypatch.setattr(subprocess.Popen, "__init__", checked_start)
    # Commands find no engine, and cannot start a private one: a socket's address cannot be that long.
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    monkeypatch.setenv("HFDLC_STATE", str(tmp_path_factory.getbasetemp() / ("x" * private.LONGEST)))
