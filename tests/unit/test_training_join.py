"""Hosts of a training job wait for each other in `image/train.py`, over real connections."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import pytest

FIRST, SECOND, THIRD = HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")  # addresses resolve to themselves


@pytest.fixture
def port(inside: ModuleType, monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port, which is MASTER_PORT."""
    with socket.socket() as free:
        free.bind((FIRST, 0))
        found = int(free.getsockname()[1])
    monkeypatch.setenv("MASTER_PORT", str(found))
    monkeypatch.delenv("SM_STUDIO_LOCAL_MODE", raising=False)
    return found


def resources(host: str) -> dict[str, object]:
    return {"hosts": list(HOSTS), "current_host": host}


@contextmanager
def joining(inside: ModuleType, names: Sequence[str]) -> Iterator[dict[str, str | None]]:
    """What `join` returns on each of some hosts; complete after the block."""
    found: dict[str, str | None] = {}

    def run(name: str) -> None:
        found[name] = inside.join(resources(name))

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    yield found
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_hosts_wait_until_all_have_joined(
    inside: ModuleType, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order. The script can listen at the port afterwards, also without SO_REUSEADDR."""
    monkeypatch.setenv(inside.JOIN_TIMEOUT, "10")
    with joining(inside, [SECOND, FIRST]) as found:
        time.sleep(0.2)
        assert not found
        with joining(inside, [THIRD]) as last:
            pass
    assert found | last == dict.fromkeys(HOSTS)
    with socket.socket() as script:
        script.bind((FIRST, port))


def test_a_host_that_never_joins_is_named_on_all_hosts(
    inside: ModuleType, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It resolves, and its launcher does not start."""
    monkeypatch.setenv(inside.JOIN_TIMEOUT, "1")
    with joining(inside, [FIRST, SECOND]) as found:
        pass
    assert found[FIRST] == found[SECOND]
    assert str(found[FIRST]).startswith(
        f"the host {THIRD} has not joined after 1 s: {THIRD} ({THIRD}) did not connect to port {port} of "
    )


def test_a_first_host_that_never_joins_is_named(
    inside: ModuleType, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what its port said."""
    monkeypatch.setenv(inside.JOIN_TIMEOUT, "1")
    error = inside.join(resources(SECOND))
    assert error.startswith(
        f"the host {FIRST} has not joined after 1 s: port {port} of {FIRST} ({FIRST}): Connection refused."
    )


def test_several_hosts_that_never_join_are_named(
    inside: ModuleType, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ones, if there are many."""
    monkeypatch.setenv(inside.JOIN_TIMEOUT, "1")
    assert inside.join(resources(FIRST)).startswith(
        f"the hosts {SECOND}, {THIRD} have not joined after 1 s: "
    )
    assert inside._named([f"algo-{n}" for n in range(1, 21)]).endswith("algo-7, algo-8 and 12 more have")


def test_another_program_at_the_port_is_no_host(
    inside: ModuleType, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one that connects to the first host, nor one that answers in its place."""
    monkeypatch.setenv(inside.JOIN_TIMEOUT, "1")
    with joining(inside, [FIRST]) as found:
        time.sleep(0.1)
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"", b"x" * 9000):
            with socket.create_connection((FIRST, port)) as other:
                other.sendall(text)
    assert f"the hosts {SECOND}, {THIRD} have not joined" in str(found[FIRST])
    with socket.create_server((FIRST, port)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            server.close()
            with connection:
                connection.sendall(b"hello\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert f"the host {FIRST} has not joined" in inside.join(resources(SECOND))
        thread.join()


def test_a_host_that_is_awaited_is_reported_once(
    inside: ModuleType, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the limit; not if all hosts are there at once."""
    monkeypatch.setattr(inside, "SILENT", 0.1)
    monkeypatch.setenv(inside.JOIN_TIMEOUT, "1")
    inside.join({"hosts": [FIRST, SECOND], "current_host": FIRST})
    assert capsys.readouterr().err == f"train: waiting up to 1 s until the host {SECOND} has joined\n"
    waiting = inside.Waiting(10)
    waiting.report([SECOND])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("hosts", "name", "value"),
    [((FIRST,), "OTHER", ""), (HOSTS, "HFDLC_JOIN_TIMEOUT", "0"), (HOSTS, "SM_STUDIO_LOCAL_MODE", "true")],
)
def test_hosts_do_not_wait(
    inside: ModuleType,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    hosts: Sequence[str],
    name: str,
    value: str,
) -> None:
    """A host that is alone, one that is not to wait, and those of Studio, which have one network."""
    monkeypatch.setenv(name, value)
    assert inside.join({"hosts": list(hosts), "current_host": FIRST}) is None


@pytest.mark.parametrize(
    ("settings", "hosts", "checked"),
    [
        ({}, HOSTS, True),
        ({"sagemaker_torch_distributed_enabled": "true"}, (FIRST,), True),
        ({}, (FIRST,), False),
    ],
)
def test_port_in_use_is_an_error(
    inside: ModuleType, port: int, settings: dict[str, str], hosts: Sequence[str], checked: bool
) -> None:
    """Before the script starts, where it or torchrun would listen; it is free for the other hosts."""
    here = {"hosts": list(hosts), "current_host": FIRST}
    assert inside.used_port(settings, here) is None
    with socket.create_server((FIRST, port)):
        error = inside.used_port(settings, here)
        assert inside.used_port(settings, {"hosts": list(HOSTS), "current_host": SECOND}) is None
        if len(hosts) > 1:
            assert inside.join(here) == error
    message = (
        f"the port {port} of {FIRST} cannot be used: Address already in use; set MASTER_PORT to another one"
    )
    assert error == (message if checked else None)


@pytest.mark.parametrize("name", ["MASTER_PORT", "HFDLC_JOIN_TIMEOUT"])
@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "9999999"])
def test_variable_that_is_no_number_is_an_error(
    inside: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    """It is named, with what is allowed."""
    assert inside._wrong_variable() is None
    monkeypatch.setenv(name, text)
    assert inside._wrong_variable().startswith(f"the variable {name} is not a number from 0 to ")
