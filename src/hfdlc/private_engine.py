"""An engine of our own below the state folder, which changes nothing else on the machine."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hfdlc import apt
from hfdlc.errors import HfdlcError
from hfdlc.process import start as start_process
from hfdlc.state import State

PATIENCE = 60.0  # seconds
# Longer paths do not fit into a socket's address, which ends at 108 bytes.
LONGEST = 70


@dataclass(frozen=True)
class Folders:
    """Where the private engine keeps what it has."""

    base: Path

    @classmethod
    def of(cls, state: State) -> "Folders":
        """Below the state folder."""
        return cls(state.root / "engine")

    @property
    def socket(self) -> Path:
        """Where it answers."""
        return self.base / "docker.sock"

    @property
    def pidfile(self) -> Path:
        """Written by the engine itself."""
        return self.base / "docker.pid"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.base / "dockerd.log"

    @property
    def buildx(self) -> Path:
        """The program of its own that buildx is."""
        return self.base / "root" / "usr" / "libexec" / "docker" / "cli-plugins" / "docker-buildx"

    @property
    def programs(self) -> str:
        """The folders that go first on PATH."""
        usr = self.base / "root" / "usr"
        return f"{usr / 'bin'}:{usr / 'sbin'}"


def packages(codename: str) -> tuple[str, ...]:
    """What is unpacked: Debian 13's engine, which runs on Debian 12 with the runc of that release.

    Debian 12's own engine is 20.10, without buildx and with an old BuildKit.
    """
    newer = ("docker.io/trixie", "docker-buildx/trixie", "containerd/trixie")
    return (*newer, f"runc/{codename}", "mmdebstrap/trixie")


def unpack(state: State) -> Folders:
    """Fetch the engine's programs where they are missing."""
    folders = Folders.of(state)
    machine = apt.release()
    suites = sorted({"trixie", machine.codename})
    folders.base.mkdir(parents=True, exist_ok=True)
    apt.unpack(packages(machine.codename), suites, folders.base, machine)
    return folders


def start(state: State) -> Folders:
    """Start the engine if it does not run, on what an earlier one left, however that one ended.

    Raises HfdlcError where this machine cannot run one.
    """
    if os.geteuid():
        raise HfdlcError(
            "no engine answers, and starting a private one needs root",
            then="run this as root, or start Docker 23 or newer (DOCKER_HOST names it)",
        )
    if len(str(state.root)) > LONGEST:
        raise HfdlcError(
            f"this path is too long for a socket below it ({len(str(state.root))} characters)",
            where=str(state.root),
            allowed=f"{LONGEST} characters",
            then="set HFDLC_STATE to a shorter path",
        )
    with state.lock("engine"):
        if pid := running(state):
            _wait(Folders.of(state), lambda: _is_dockerd(pid))
            return Folders.of(state)
        folders = unpack(state)
        process = _launch(folders)
        _wait(folders, lambda: process.poll() is None)
    return folders


def _launch(folders: Folders) -> subprocess.Popen[str]:
    configuration = {
        "data-root": str(folders.base / "data"),
        "exec-root": str(folders.base / "exec"),
        "pidfile": str(folders.pidfile),
        "hosts": [f"unix://{folders.socket}"],
        "bridge": "none",
        "iptables": False,
        "ip6tables": False,
        "features": {"containerd-snapshotter": True},
    }
    file = folders.base / "daemon.json"
    file.write_text(json.dumps(configuration, indent=2))
    folders.pidfile.unlink(missing_ok=True)
    with folders.log.open("a") as log:
        return start_process(
            [str(folders.base / "root" / "usr" / "sbin" / "dockerd"), "--config-file", str(file)],
            env={"PATH": f"{folders.programs}:{os.environ.get('PATH', os.defpath)}"},
            stdout=log,
            stderr=subprocess.STDOUT,
            new_session=True,
        )


def _wait(folders: Folders, lives: Callable[[], bool]) -> None:
    """Until the socket is there; what it answers is asked elsewhere."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        if folders.socket.exists() and folders.pidfile.exists():
            return
        if not lives():
            break
        time.sleep(0.1)
    tail = "\n".join(f"    {line}" for line in folders.log.read_text().splitlines()[-8:])
    raise HfdlcError(f"the private engine did not start\n{tail}", then=f"read {folders.log}")


def running(state: State) -> int | None:
    """The process id of the private engine, if it runs."""
    try:
        pid = int(Folders.of(state).pidfile.read_text())
    except (OSError, ValueError):
        return None
    return pid if _is_dockerd(pid) else None


def _is_dockerd(pid: int) -> bool:
    """Whether the process lives and is an engine: an id may have gone to another program since."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return "dockerd" in Path(f"/proc/{pid}/cmdline").read_text() and "\nState:\tZ" not in status
    except OSError:
        return False


def stop(state: State) -> bool:
    """End the private engine and wait for it; give whether one ran."""
    with state.lock("engine"):
        pid = running(state)
        if not pid:
            return False
        os.kill(pid, signal.SIGTERM)
        began = time.monotonic()
        while _is_dockerd(pid):
            if time.monotonic() - began > PATIENCE:
                raise HfdlcError(f"the private engine (process {pid}) did not end within {PATIENCE:.0f} s")
            time.sleep(0.1)
        return True
