"""The folders and the configuration of the private engine."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from hfdlc.engine.context import Address
from hfdlc.state import State

BUILDX = Path("usr/libexec/docker/cli-plugins/docker-buildx")


@dataclass(frozen=True)
class Folders:
    """The folders and files of the private engine, in the state folder."""

    base: Path

    @classmethod
    def of(cls, state: State) -> "Folders":
        return cls(state.root / "engine")

    @property
    def socket(self) -> Path:
        return self.base / "docker.sock"

    @property
    def address(self) -> Address:
        return Address(f"unix://{self.socket}")

    @property
    def pidfile(self) -> Path:
        return self.base / "docker.pid"

    @property
    def containerd(self) -> Path:
        """The run-time folder of its containerd."""
        return self.base / "exec" / "containerd"

    @property
    def blobs(self) -> Path:
        """Where its containerd keeps the layers of images as they were loaded."""
        return self.base / "data/containerd/daemon/io.containerd.content.v1.content/blobs"

    @property
    def log(self) -> Path:
        return self.base / "dockerd.log"

    @property
    def root(self) -> Path:
        """The folder of the unpacked packages."""
        return self.base / "root"

    @property
    def buildx(self) -> Path:
        return self.root / BUILDX

    def path(self, path: str) -> str:
        """A PATH with the programs of the engine first, and the system folders last."""
        own = (self.base / "programs", self.root / "usr/bin", self.root / "usr/sbin")
        return ":".join([*map(str, own), path, "/usr/local/sbin:/usr/sbin:/sbin"])


def configure(folders: Folders) -> None:
    """Write the configuration of the engine and of its containerd, which would create /opt/containerd."""
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
    theirs = json.dumps(str(folders.containerd / "containerd.toml"))  # a JSON string is a TOML string
    no_opt = 'disabled_plugins = ["io.containerd.internal.v1.opt"]'
    own.write_text(f"version = 2\nimports = [{theirs}]\n{no_opt}\n")
    program = folders.base / "programs" / "containerd"
    program.parent.mkdir(exist_ok=True)
    argv = [str(folders.root / "usr/bin/containerd"), "--config", str(own)]
    program.write_text(f"#!/bin/sh\nexec {shlex.join(argv)}\n")
    program.chmod(0o755)
