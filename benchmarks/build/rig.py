"""Where a build is measured: a new private engine with an empty cache, and an empty registry on loopback."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hfdlc.build import prepare
from hfdlc.build.session import Session
from hfdlc.engine import detect
from hfdlc.matrix.cells import Cell
from hfdlc.project import Project
from hfdlc.state import State
from parts import docker_registry, serving

HFDLC = str(Path(sys.executable).with_name("hfdlc"))


@dataclass(frozen=True)
class Rig:
    """A state folder with its engine, and a registry."""

    state: State
    environ: Mapping[str, str]
    host: str

    def hfdlc(self, project: Project, *words: str) -> float:
        """The seconds that a command takes."""
        began = time.monotonic()
        subprocess.run([HFDLC, *words], cwd=project.root, env=dict(self.environ), check=True)
        return time.monotonic() - began

    def push(self, project: Project, cells: Sequence[Cell]) -> float:
        """The seconds that building and pushing cells takes."""
        return self.hfdlc(project, "push", "--registry", self.host, *(cell.id for cell in cells))

    def stored(self) -> int:
        """The bytes of all blobs in the registry."""
        return sum(
            blob.stat().st_size for blob in (self.state.root / "registry").rglob("blobs/sha256/*/*/data")
        )

    def prepare(self, project: Project, cells: Sequence[Cell]) -> None:
        """Start the engine, with the cells' bases in it: they are no part of what is measured."""
        with Session(project, self.environ) as session, prepare.prepared(session, cells):
            os.sync()


@contextmanager
def rig(below: Path) -> Iterator[Rig]:
    """A new one, in a folder below `below`; stopped afterwards, and not deleted."""
    folder = Path(tempfile.mkdtemp(dir=below))
    state = State(folder)
    # Bases that this machine has made are not made again.
    for file in (State.of(os.environ).root / "bases").glob("*.tar"):
        (state.folder("bases") / file.name).symlink_to(file)
    # No engine answers there: so a private one is started.
    environ = {**os.environ, "HFDLC_STATE": str(folder), "DOCKER_HOST": f"unix://{folder}/none.sock"}
    try:
        with serving(docker_registry(state), folder / "registry") as host:
            yield Rig(state, environ, host)
    finally:
        detect.stop(state)
