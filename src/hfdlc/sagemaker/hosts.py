"""The containers of a job's hosts, from their start to the end of the last one."""

import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from docker.errors import DockerException
from docker.models.containers import Container

from hfdlc.engine import containers
from hfdlc.sagemaker import job as train_job
from hfdlc.sagemaker.progress import lines

GRACE = 5.0  # seconds for the other hosts to fail by themselves, after one has
STOPPING = 30  # seconds between SIGTERM and SIGKILL for them
# The reason of a host that only lost its connection to the one that failed.
CONSEQUENCE = re.compile(r"[Cc]onnection (was )?(closed|reset)|Broken pipe|recvValue failed|sendBytes failed")


@dataclass(frozen=True)
class Host:
    """A host and its container."""

    name: str
    container: Container


@dataclass(frozen=True)
class Failure:
    """How a host failed by itself."""

    host: str
    code: int
    reason: str


def start(hosts: Sequence[Host]) -> list[Host]:
    """Start the hosts; returns those that were started: a host cannot join a first one that has ended."""
    containers.start(hosts[0].container)
    for number, host in enumerate(hosts[1:], 1):
        try:
            containers.start(host.container)
        except DockerException:
            hosts[0].container.reload()
            if hosts[0].container.status == "running":
                raise
            return list(hosts[:number])
    return list(hosts)


def follow(hosts: Sequence[Host], show: Callable[[str, str], None]) -> list[Failure]:
    """Show the log until all hosts have ended; if one fails, the others are stopped.

    Returns those that failed by themselves; what the others lost with them comes last.
    """
    events: queue.SimpleQueue[tuple[Host, str | int | Exception]] = queue.SimpleQueue()
    for host in hosts:
        threading.Thread(target=_watch, args=(host, events), daemon=True).start()
    codes: dict[str, int] = {}
    stopped: set[str] = set()
    limit: float | None = None
    while len(codes) < len(hosts):
        try:
            host, event = events.get(timeout=None if limit is None else max(0.0, limit - time.monotonic()))
        except queue.Empty:
            limit = None
            left = [host for host in hosts if host.name not in codes]
            stopped = {host.name for host in left}
            _stop(left, STOPPING)
            continue
        if isinstance(event, Exception):
            raise event
        if isinstance(event, str):
            show(host.name, event)
            continue
        codes[host.name] = event
        if event and not stopped and limit is None:
            limit = time.monotonic() + GRACE
    return _failures(hosts, {name: code for name, code in codes.items() if code and name not in stopped})


def _watch(host: Host, events: "queue.SimpleQueue[tuple[Host, str | int | Exception]]") -> None:
    try:
        for line in lines(host.container.logs(stream=True, follow=True)):
            events.put((host, line))
        events.put((host, int(host.container.wait()["StatusCode"])))
    except Exception as error:  # for the thread that follows
        events.put((host, error))


def _failures(hosts: Sequence[Host], codes: dict[str, int]) -> list[Failure]:
    by_name = {host.name: host.container for host in hosts}
    found = [
        Failure(name, code, train_job.read(by_name[name], train_job.FAILURE) or "no reason was written")
        for name, code in codes.items()
    ]
    return sorted(found, key=lambda failure: bool(CONSEQUENCE.search(failure.reason)))


def stop(hosts: Iterable[Host], patience: int) -> None:
    """Send SIGTERM to the hosts, SIGKILL `patience` seconds later, and wait for their end."""
    for thread in _stop(hosts, patience):
        thread.join()


def _stop(hosts: Iterable[Host], patience: int) -> list[threading.Thread]:
    def end(host: Host) -> None:
        with suppress(DockerException):  # it has ended
            host.container.stop(timeout=patience)

    threads = [threading.Thread(target=end, args=(host,), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    return threads


def message(failures: Sequence[Failure], hosts: Sequence[Host]) -> str:
    """What failed: the reason of the first host, and in a line each of the others."""
    first, *others = failures
    on = f" on {first.host}" if len(hosts) > 1 else ""
    text = f"training failed{on} with exit code {first.code}\n{first.reason}"
    for other in others:
        last = other.reason.strip().splitlines()[-1]
        text += f"\n{other.host} failed too, with exit code {other.code}: {last}"
    return text
