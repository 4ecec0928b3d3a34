"""The private engine's files, without an engine."""

import json
import os
from pathlib import Path

import pytest

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


def test_other_processes_may_have_any_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are not UTF-8 ended `hfdlc engine stop` before it unmounted anything."""
    folders = Folders(tmp_path / "engine")
    commands = {1: b"editor\0caf\xe9.txt\0", 2: f"{folders.root}/usr/bin/containerd-shim\0".encode()}
    for pid, command in commands.items():
        (tmp_path / f"proc/{pid}/task/{pid}").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/task/{pid}/children").write_text("3")
        (tmp_path / f"proc/{pid}/cmdline").write_bytes(command)
        (tmp_path / f"proc/{pid}/status").write_bytes(b"Name:\tcaf\xe9\nState:\tS (sleeping)\n")
    killed: list[int] = []
    monkeypatch.setattr(private, "PROC", tmp_path / "proc")
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    private._end_orphans(folders)
    assert killed == [3, 2]
    assert [private._runs(pid, folders) for pid in (1, 2)] == [False, True]


def test_mounts_of_any_state_folder_are_unmounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    r"""The kernel writes a space as \040, and other characters as they are."""
    base = tmp_path / "é ü"
    line = f"overlay {base}/engine/merged".replace("é ü", "é\\040ü")
    (tmp_path / "mounts").write_bytes(f"{line} overlay rw 0 0\n".encode() + b"tmpfs /caf\xe9 tmpfs rw 0 0\n")
    unmounted: list[list[str]] = []
    monkeypatch.setattr(private, "MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(private, "run", lambda argv, **_: unmounted.append(argv))
    private._unmount(Folders(base / "engine"))
    assert unmounted == [["umount", "--lazy", f"{base}/engine/merged"]]
