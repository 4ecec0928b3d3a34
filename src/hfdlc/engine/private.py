"""The private engine: Debian's Docker, unpacked into the state folder. It changes nothing else."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from docker.errors import DockerException

from hfdlc.engine import debian
from hfdlc.engine.folders import BUILDX, Folders, configure
from hfdlc.errors import HfdlcError
from hfdlc.process import run, say
from hfdlc.process import start as start_process
from hfdlc.state import State

PATIENCE = 60.0  # seconds
# The path of a Unix socket has at most 107 bytes; the longest one adds 45 to the state folder.
LONGEST = 62
PROC, MOUNTS = Path("/proc"), Path("/proc/self/mounts")
LOG_ENDS = 20e6  # bytes; a larger log is rotated at the next start
SUITE = "trixie"  # Debian 12's own engine is 20.10, without buildx and with an old BuildKit


def packages(machine: str) -> dict[str, tuple[str, ...]]:
    """The packages by suite: Debian 13's engine, which runs on Debian 12 with the runc of that release."""
    engine = ("docker.io", "docker-buildx", "containerd", "tini")
    return {SUITE: (*engine, "runc")} if machine == SUITE else {SUITE: engine, machine: ("runc",)}


def unpack_buildx(state: State) -> Path:
    """Debian's buildx, for other engines."""
    return debian.unpack({SUITE: ("docker-buildx",)}, state.root / "buildx-program", state) / BUILDX


def start(state: State, environ: Mapping[str, str]) -> Folders:
    """Start the engine if it does not run, with the images and caches of the last one.

    Raises HfdlcError if this machine cannot run one.
    """
    check_machine(state)
    folders = Folders.of(state)
    with state.lock("engine"):
        if pid := running(state):
            _wait(folders, lambda: _runs(pid, folders))
            return folders
        machine = debian.release()
        debian.unpack(packages(machine.codename), folders.base, state, machine)
        began = time.monotonic()
        process = _launch(folders, environ)
        _wait(folders, lambda: process.poll() is None)
        say(f"the private engine started in {time.monotonic() - began:.1f} s")
    return folders


def check_machine(state: State) -> None:
    """Raise HfdlcError if no private engine can be started on this machine."""
    if os.geteuid():
        raise HfdlcError(
            "no Docker engine answers, and only root can start a private one",
            hint="start Docker 23 or newer (set DOCKER_HOST if it is not local), or run this as root",
        )
    if len(os.fsencode(state.root)) > LONGEST:
        raise HfdlcError(
            f"this path is too long for a Unix socket: {len(os.fsencode(state.root))} bytes",
            location=str(state.root),
            allowed=f"up to {LONGEST} bytes",
            hint="set HFDLC_STATE to a shorter path",
        )
    debian.codename()


def _launch(folders: Folders, environ: Mapping[str, str]) -> subprocess.Popen[str]:
    _forget_dead(folders)
    configure(folders)
    if folders.log.is_file() and folders.log.stat().st_size > LOG_ENDS:
        folders.log.rename(folders.log.with_suffix(".log.1"))
    with folders.log.open("a") as log:
        return start_process(
            [str(folders.root / "usr/sbin/dockerd"), "--config-file", str(folders.base / "daemon.json")],
            # GOGC=400: garbage collection was a seventh of its processor time.
            env={**environ, "PATH": folders.path(environ.get("PATH", os.defpath)), "GOGC": "400"},
            stdout=log,
            stderr=subprocess.STDOUT,
            new_session=True,
        )


def _forget_dead(folders: Folders) -> None:
    """Remove the pid files and the socket of a killed engine.

    Its process ids may belong to other programs now, and the engine would take one for its containerd.
    """
    folders.pidfile.unlink(missing_ok=True)
    folders.socket.unlink(missing_ok=True)
    containerd = folders.containerd / "containerd.pid"
    if (pid := _pid(containerd)) and not _runs(pid, folders):
        containerd.unlink()


def _wait(folders: Folders, lives: Callable[[], bool]) -> None:
    """Wait until the engine answers."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE and lives():
        if folders.socket.exists() and _answers(folders):
            return
        time.sleep(0.1)
    tail = "\n".join(f"    {line}" for line in folders.log.read_text(errors="replace").splitlines()[-8:])
    raise HfdlcError(f"the private engine does not answer\n{tail}", hint=_advice(tail, folders))


def _answers(folders: Folders) -> bool:
    try:
        with closing(folders.address.client(int(PATIENCE))) as client:
            return bool(client.ping())
    except (DockerException, OSError):
        return False


def _advice(tail: str, folders: Folders) -> str:
    if "no space left on device" in tail.lower():
        return debian.FREE_SPACE
    return f"see {folders.log}; `hfdlc engine stop` stops the remaining processes"


def running(state: State) -> int | None:
    """The process id of the private engine; None if it does not run."""
    folders = Folders.of(state)
    pid = _pid(folders.pidfile)
    return pid if pid and _runs(pid, folders) else None


def _pid(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _runs(pid: int, folders: Folders) -> bool:
    """Whether the process is running and belongs to this engine: process ids are reused."""
    try:
        status = (PROC / str(pid) / "status").read_text(errors="replace")
        command = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False
    return os.fsencode(f"{folders.base}/") in command and "\nState:\tZ" not in status


def stop(state: State) -> bool:
    """Stop the private engine and its containerd, and wait; returns whether one was running."""
    folders = Folders.of(state)
    if not folders.base.is_dir():
        return False
    with state.lock("engine"):
        pids = [_pid(folders.pidfile), _pid(folders.containerd / "containerd.pid")]
        ended = [_end(pid, folders) for pid in pids if pid]
        _end_orphans(folders)
        _unmount(folders)
    return any(ended)


def _end(pid: int, folders: Folders) -> bool:
    if not _runs(pid, folders):
        return False
    os.kill(pid, signal.SIGTERM)
    began = time.monotonic()
    while _runs(pid, folders):
        if time.monotonic() - began > PATIENCE:
            raise HfdlcError(
                f"the private engine (process {pid}) did not stop within {PATIENCE:.0f} s",
                hint=f"see {folders.log}",
            )
        time.sleep(0.1)
    return True


def _end_orphans(folders: Folders) -> None:
    """Kill containers of a killed engine: children of containerd shims, which outlive it."""
    for command in PROC.glob("[0-9]*/cmdline"):
        pid = command.parent.name
        try:
            if command.read_bytes().startswith(os.fsencode(f"{folders.root}/")):
                children = (command.parent / "task" / pid / "children").read_text().split()
                for each in (*children, pid):
                    os.kill(int(each), signal.SIGKILL)
        except OSError:
            continue  # the process has ended


def _unmount(folders: Folders) -> None:
    """Unmount what a killed engine had mounted, so that the state folder can be removed."""
    escaped = [line.split()[1].decode("unicode_escape") for line in MOUNTS.read_bytes().splitlines()]
    points = [os.fsdecode(point.encode("latin-1")) for point in escaped]
    for point in sorted(points, key=len, reverse=True):
        if point.startswith(f"{folders.base}/"):
            run(["umount", "--lazy", point], check=False)
