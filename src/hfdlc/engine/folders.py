"""Where the private engine keeps what it has, and the configuration that it is started with."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from hfdlc.engine.context import Address
from hfdlc.state import State

BUILDX = Path("usr/libexec/docker/cli-plugins/docker-buildx")


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
    def address(self) -> Address:
        """The same, as clients want to hear it."""
        return Address(f"unix://{self.socket}")

    @property
    def pidfile(self) -> Path:
        """Written by the engine itself."""
        return self.base / "docker.pid"

    @property
    def containerd(self) -> Path:
        """What the engine's containerd keeps while it runs."""
        return self.base / "exec" / "containerd"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.base / "dockerd.log"

    @property
    def root(self) -> Path:
        """The unpacked packages."""
        return self.base / "root"

    @property
    def buildx(self) -> Path:
        """The program of its own that buildx is."""
        return self.root / BUILDX

    def path(self, path: str) -> str:
        """A search path with the engine's own programs first, and the system's for root last."""
        own = (self.base / "programs", self.root / "usr/bin", self.root / "usr/sbin")
        return ":".join([*map(str, own), path, "/usr/local/sbin:/usr/sbin:/sbin"])


def configure(folders: Folders) -> None:
    """Write the engine's configuration, and its containerd's: that one would make /opt/containerd."""
    engine = {
        "data-root": str(folders.base / "data"),
        "exec-root": str(folders.base / "exec"),
        "pidfile": str(folders.pidfile),
        "hosts": [f"unix://{folders.socket}"],
        "bridge": "none",
        "iptables": False,
        "ip6tables": False,
        "features": {"containerd-snapshotter": True},
    }
    (folders.base / "daemon.json").write_text(json.dumps(engine, indent=2))
    own = folders.base / "containerd.toml"
    theirs = json.dumps(str(folders.containerd / "containerd.toml"))  # a text in JSON is one in TOML
    no_opt = 'disabled_plugins = ["io.containerd.internal.v1.opt"]'
    own.write_text(f"version = 2\nimports = [{theirs}]\n{no_opt}\n")
    program = folders.base / "programs" / "containerd"
    program.parent.mkdir(exist_ok=True)
    argv = [str(folders.root / "usr/bin/containerd"), "--config", str(own)]
    program.write_text(f"#!/bin/sh\nexec {shlex.join(argv)}\n")
    program.chmod(0o755)
