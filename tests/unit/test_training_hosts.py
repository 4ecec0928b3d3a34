"""Several hosts of a training job: their network, and what happens when one of them fails."""

import io
import os
import tarfile
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn, cast

import pytest
from docker.errors import APIError, NotFound
from docker.models.containers import ContainerCollection

from hfdlc.engine import containers
from hfdlc.sagemaker import hosts, network
from hfdlc.sagemaker.hosts import Failure, Host

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

    from hfdlc.engine.detect import Engine

NAMES = network.names(2)
LOST = "RuntimeError: Connection closed by peer [127.0.0.1]:25493"


class Script:
    """A container whose script prints a line, and then ends by itself or when it is stopped."""

    def __init__(self, code: int | None, reason: str | None = None) -> None:
        self.code, self.reason = code, reason
        self.status = "running"
        self.stopped = threading.Event()

    def logs(self, **_: object) -> Iterator[bytes]:
        """Its output."""
        yield b"hello\n"
        if self.code is None:
            assert self.stopped.wait(10)

    def wait(self) -> dict[str, int]:
        """Its exit code."""
        return {"StatusCode": 143 if self.code is None else self.code}

    def stop(self, timeout: int) -> None:
        """Get SIGTERM."""
        self.stopped.set()

    def start(self) -> None:
        """Do nothing: it runs."""

    def reload(self) -> None:
        """Do nothing."""

    def get_archive(self, path: str) -> tuple[list[bytes], None]:
        """The failure file."""
        if self.reason is None:
            raise NotFound(path)
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            info = tarfile.TarInfo("failure")
            info.size = len(self.reason)
            tar.addfile(info, io.BytesIO(self.reason.encode()))
        return [content.getvalue()], None


def made(*scripts: Script) -> list[Host]:
    return [
        Host(name, cast("Container", each))
        for name, each in zip(network.names(len(scripts)), scripts, strict=True)
    ]


def test_the_log_names_the_host_of_each_line() -> None:
    shown: list[tuple[str, str]] = []
    assert hosts.follow(made(Script(0), Script(0)), lambda *line: shown.append(line)) == []
    assert sorted(shown) == [("algo-1", "hello\n"), ("algo-2", "hello\n")]


def test_a_failed_host_stops_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """They get SIGTERM; that they end then is no failure of theirs."""
    monkeypatch.setattr(hosts, "GRACE", 0.1)
    waits = Script(None)
    job = made(waits, Script(1, "ValueError: no"))
    failures = hosts.follow(job, lambda *_: None)
    assert waits.stopped.is_set()
    assert failures == [Failure("algo-2", 1, "ValueError: no")]
    assert hosts.message(failures, job) == "training failed on algo-2 with exit code 1\nValueError: no"


def test_a_host_that_lost_its_connection_is_not_the_one_that_failed() -> None:
    """It often ends first."""
    job = made(Script(1, f"Traceback:\n{LOST}"), Script(1, "ValueError: no"))
    assert hosts.message(hosts.follow(job, lambda *_: None), job) == (
        "training failed on algo-2 with exit code 1\nValueError: no\n"
        f"algo-1 failed too, with exit code 1: {LOST}"
    )


def test_a_host_without_a_failure_file_has_no_reason() -> None:
    """And with one host its name is not of interest."""
    job = made(Script(137))
    failures = hosts.follow(job, lambda *_: None)
    assert hosts.message(failures, job) == "training failed with exit code 137\nno reason was written"


def test_an_error_of_the_engine_ends_the_job() -> None:
    broken = Script(0)
    broken.wait = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(ZeroDivisionError):
        hosts.follow(made(broken), lambda *_: None)


def test_hosts_are_not_started_after_the_first_one_has_ended() -> None:
    """They cannot join its network; the reason is that of the first one."""

    def refuse() -> None:
        raise APIError("cannot join network of a non running container")

    first, second = Script(1), Script(0)
    second.start = refuse  # type: ignore[method-assign]
    with pytest.raises(APIError):
        hosts.start(made(first, second))
    first.status = "exited"
    assert [host.name for host in hosts.start(made(first, second))] == ["algo-1"]


class Networks:
    """The networks of an engine."""

    def __init__(self) -> None:
        self.made: dict[str, bool] = {}

    def create(self, name: str, **options: object) -> SimpleNamespace:
        """Remember whether it is internal."""
        self.made[name] = bool(options["internal"])
        return SimpleNamespace(name=name, remove=lambda: self.made.pop(name))


def engine(*, private: bool, networks: Networks | None = None) -> "Engine":
    return cast("Engine", SimpleNamespace(private=private, client=SimpleNamespace(networks=networks)))


@pytest.mark.parametrize("online", [False, True])
def test_hosts_have_a_bridge_network_where_the_engine_has_them(online: bool) -> None:
    """It has no way out unless the job is online; the engine resolves the names."""
    networks = Networks()
    with network.connected(engine(private=False, networks=networks), NAMES, online=online) as net:
        assert net.interface == "eth0"
        (name,) = networks.made
        assert networks.made[name] is not online
        options = net.options("algo-2", "1a")
        assert (options["network"], options["hostname"]) == (name, "algo-2")
        assert options["networking_config"][name]["Aliases"] == ["algo-2"]
    assert not networks.made


def test_hosts_of_a_private_engine_share_a_loopback_interface() -> None:
    """The first one has the names; the others join its network, or that of the machine."""
    names = {"algo-1": "127.0.0.1", "algo-2": "127.0.0.2"}
    with network.connected(engine(private=True), NAMES, online=False) as net:
        assert net.interface == "lo"
        assert net.options("algo-1", None) == {
            "network_mode": "none",
            "hostname": "algo-1",
            "extra_hosts": names,
        }
        assert net.options("algo-2", "1a") == {"network_mode": "container:1a"}
    with network.connected(engine(private=True), NAMES, online=True) as net:
        assert net.options("algo-2", "1a") == {
            "network_mode": "host",
            "hostname": "algo-2",
            "extra_hosts": names,
        }


def test_networks_of_killed_processes_are_removed() -> None:
    """Those of this machine whose process is gone."""
    removed: list[str] = []

    def labelled(name: str, process: int) -> SimpleNamespace:
        labels = {"Labels": {containers.LABEL: str(process)}}
        return SimpleNamespace(name=name, attrs=labels, remove=lambda: removed.append(name))

    found = [labelled("used", os.getpid()), labelled("left", 1 << 30)]
    none = SimpleNamespace(list=lambda **_: [])
    networks = SimpleNamespace(list=lambda **_: found)
    client = SimpleNamespace(containers=none, volumes=none, networks=networks)
    assert containers.remove_strays(cast("Engine", SimpleNamespace(client=client))) == ["left"]
    assert removed == ["left"]


def test_container_that_another_run_removes_meanwhile_is_left_out() -> None:
    """docker-py asks for each container of the list, and ended with the first that was gone."""

    def inspect(_: str) -> NoReturn:
        raise NotFound("No such container: gone")

    api = SimpleNamespace(containers=lambda **_: [{"Id": "gone"}], inspect_container=inspect)
    found = ContainerCollection(client=cast("DockerClient", SimpleNamespace(api=api)))
    none = SimpleNamespace(list=lambda **_: [])
    here = SimpleNamespace(containers=found, networks=none, volumes=none)
    assert containers.remove_strays(cast("Engine", SimpleNamespace(client=here))) == []


@pytest.mark.parametrize(
    ("private", "online", "mode"), [(True, False, "none"), (True, True, "host"), (False, True, "bridge")]
)
def test_one_host_needs_no_network_of_its_own(private: bool, online: bool, mode: str) -> None:
    with network.connected(engine(private=private), NAMES[:1], online=online) as net:
        options = net.options("algo-1", None)
    names = {"algo-1": "127.0.0.1"}
    assert options == {"network_mode": mode, "hostname": "algo-1", "extra_hosts": names}
