"""A session finds the engine when it is needed, and closes it."""

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from docker.errors import NotFound

import fake_engine
from hfdlc.build import builder
from hfdlc.build.session import Session
from hfdlc.engine import context, detect
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError
from hfdlc.matrix import schema
from hfdlc.project import Project
from matrices import some_cells, write

if TYPE_CHECKING:
    from hfdlc.engine.context import Address


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens to engines, in order."""
    events: list[str] = []

    def ensure(*_: object) -> Any:
        events.append("found")
        return SimpleNamespace(close=lambda: events.append("closed"), host="unix:///a")

    monkeypatch.setattr(detect, "ensure", ensure)
    return events


def test_an_engine_is_found_once_and_closed(repository: Project, tmp_path: Path, found: list[str]) -> None:
    with Session(repository, {"HFDLC_STATE": str(tmp_path)}) as session:
        assert session.engine is session.engine
        assert found == ["found"]
    assert found == ["found", "closed"]


def test_a_session_that_uses_no_engine_finds_none(repository: Project, found: list[str]) -> None:
    with Session(repository, {}):
        pass
    assert found == []


def test_building_an_unlocked_cell_fails_before_an_engine_is_found(tmp_path: Path, found: list[str]) -> None:
    cells = some_cells(tmp_path)
    project = Project(tmp_path, schema.read(write(tmp_path)), cells)
    with Session(project, {"HFDLC_STATE": str(tmp_path)}) as session, pytest.raises(HfdlcError) as caught:
        builder.build(session, cells[:1])
    assert "hfdlc lock" in str(caught.value)
    assert found == []


def test_an_engine_connects_once_and_again_after_it_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = [SimpleNamespace(closed=0) for _ in range(2)]
    for client in clients:
        client.close = lambda client=client: setattr(client, "closed", client.closed + 1)
    given = iter(clients)
    address = cast("Address", SimpleNamespace(client=lambda _: next(given), environment={"DOCKER_HOST": "a"}))
    engine = Engine("a", "28", False, ("buildx",), True, "config", address, {"PATH": "/bin"})
    assert engine.client is engine.client is clients[0]  # type: ignore[comparison-overlap]
    engine.close()
    engine.close()
    assert [client.closed for client in clients] == [1, 0]
    assert engine.client is clients[1]  # type: ignore[comparison-overlap]


def test_programs_get_the_environment_of_the_command_and_of_the_engine() -> None:
    address = cast("Address", SimpleNamespace(environment={"DOCKER_HOST": "unix:///a"}))
    engine = Engine(
        "a", "28", False, ("buildx",), True, "config", address, {"PATH": "/bin", "DOCKER_HOST": "b"}
    )
    assert engine.environment["PATH"] == "/bin"
    assert engine.environment["DOCKER_HOST"] == "unix:///a"


def test_an_error_of_the_engine_ends_as_one_of_ours(repository: Project, found: list[str]) -> None:
    """Where an image or a container is removed meanwhile, and nothing nearer has said so."""
    session = Session(repository, {})
    assert session.engine
    problem = NotFound("404", explanation="No such container: abc")
    with pytest.raises(HfdlcError) as caught:
        session.__exit__(NotFound, problem, None)
    assert "unix:///a: a request failed: No such container: abc" in str(caught.value)
    assert "run the command again" in str(caught.value)
    assert found == ["found", "closed"]


def test_an_engine_that_stops_is_named(repository: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_engine.answering("28.2.2") as host:
        where = context.of_machine({"DOCKER_HOST": host})
        engine = Engine(host, "28.2.2", False, ("buildx",), True, "config", where, {})
        engine.client.info()
    monkeypatch.setattr(detect, "ensure", lambda *_: engine)
    with pytest.raises(HfdlcError) as caught, Session(repository, {}) as session:
        session.engine.client.info()
    assert f"{host}: the engine does not answer any more" in str(caught.value)


def test_an_error_of_something_else_stays(repository: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_engine.answering("28.2.2") as host:
        where = context.of_machine({"DOCKER_HOST": host})
        engine = Engine(host, "28.2.2", False, ("buildx",), True, "config", where, {})
        monkeypatch.setattr(detect, "ensure", lambda *_: engine)
        session = Session(repository, {})
        assert session.engine
        session.__exit__(FileNotFoundError, FileNotFoundError("a file of ours"), None)  # raises nothing else
