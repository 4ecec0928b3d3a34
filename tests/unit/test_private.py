"""The private engine's files, without an engine."""

import json
import os
from pathlib import Path

from hfdlc.engine import private
from hfdlc.engine.folders import Folders, configure
from hfdlc.state import State

LONGEST_BELOW = "/engine/exec/containerd/containerd.sock.ttrpc"


def test_debian_12_brings_its_own_runc() -> None:
    """Debian 13's is linked with a newer glibc; on Debian 13 everything is of one release."""
    assert private.packages("bookworm")["bookworm"] == ("runc",)
    assert list(private.packages("trixie")) == ["trixie"]
    assert "runc" in private.packages("trixie")["trixie"]


def test_the_longest_socket_fits_into_an_address() -> None:
    """A socket's address has 108 bytes, the last of which is a zero."""
    assert private.LONGEST + len(LONGEST_BELOW) <= 107


def test_everything_is_below_the_state_folder(tmp_path: Path) -> None:
    """No folder, socket, bridge or firewall rule outside it."""
    folders = Folders(tmp_path / "engine")
    folders.base.mkdir()
    configure(folders)
    settings = json.loads((folders.base / "daemon.json").read_text())
    for name in ("data-root", "exec-root", "pidfile"):
        assert settings[name].startswith(f"{folders.base}/")
    assert settings["hosts"] == [folders.address.host]
    assert (settings["bridge"], settings["iptables"], settings["ip6tables"]) == ("none", False, False)
    assert "containerd.internal.v1.opt" in (folders.base / "containerd.toml").read_text()


def test_its_own_programs_come_first() -> None:
    """The engine starts the containerd and the runc that were unpacked with it."""
    path = Folders(Path("/s/engine")).path("/usr/bin").split(":")
    assert path[:4] == ["/s/engine/programs", "/s/engine/root/usr/bin", "/s/engine/root/usr/sbin", "/usr/bin"]


def test_files_of_a_killed_engine_are_removed(tmp_path: Path) -> None:
    """Its socket, its process id, and its containerd's id, which is another program's now."""
    folders = Folders.of(State(tmp_path))
    folders.containerd.mkdir(parents=True)
    containerd = folders.containerd / "containerd.pid"
    folders.socket.touch()
    folders.pidfile.write_text("1")
    containerd.write_text(str(os.getpid()))
    private._forget_dead(folders)
    assert not any(file.exists() for file in (folders.socket, folders.pidfile, containerd))


def test_a_broken_pid_file_is_no_engine(tmp_path: Path) -> None:
    """As one that was being written when the machine stopped."""
    state = State(tmp_path)
    (state.folder("engine") / "docker.pid").write_text("")
    assert private.running(state) is None


def test_stop_without_an_engine_does_nothing(tmp_path: Path) -> None:
    """It says that none ran."""
    assert private.stop(State(tmp_path)) is False
