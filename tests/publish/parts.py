"""What the tests of publishing hold in their hands: keys, small images, the command."""

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field

from docker.errors import ImageNotFound

from hfdlc import check_run, inputs
from hfdlc import engine as engines
from hfdlc.cells import Cell
from hfdlc.check_run import Report
from hfdlc.engine import Engine
from hfdlc.project import Project
from hfdlc.publish.registry import digest_of
from hfdlc.state import State

Ended = subprocess.CompletedProcess[str]
Hfdlc = Callable[..., Ended]


@dataclass(frozen=True)
class Keys:
    """A pair of cosign's."""

    private: str
    public: str


@dataclass
class Small:
    """A project of its own, whose images are a few files."""

    project: Project
    engine: Engine
    state: State
    made: list[str] = field(default_factory=list)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All of them."""
        return self.project.cells

    def image(
        self,
        cell: Cell,
        *,
        checked: bool = True,
        failed: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        packages: Mapping[str, str] | None = None,
        ballast: int = 0,
    ) -> str:
        """Put an image of the cell into the engine; its digest there."""
        said = {
            "title": cell.id,
            inputs.LABEL: inputs.text({"Dockerfile": "abc"}),
            "io.hfdlc.base": "a base",
            **(labels or {}),
        }
        python = {"torch": "2.13.0+cpu", "hf-inference-toolkit": "0.1.0", **(packages or {})}
        system = {
            "etc/os-release": b'ID=debian\nVERSION_ID="12"\n',
            "var/lib/dpkg/status": b"Package: libc6\nStatus: install ok installed\nVersion: 2.36-9\n\n",
            "ballast": os.urandom(ballast),
        }
        site = f"opt/venv/lib/python{cell.python}/site-packages"
        files = {
            f"{site}/{name.replace('-', '_')}-{version}.dist-info/METADATA": f"Name: {name}\n".encode()
            for name, version in python.items()
        }
        with closing(engines.client(self.engine)) as client:
            client.images.load(_archive(cell.id, said, [_tar(system), _tar(files)]))
            digest = str(client.images.get(cell.id).id)
        self.made.append(cell.id)
        if checked or failed:
            report = Report(cell.id, digest, "2026-11-23T00:00:00+00:00", ["test_all: test_port"])
            report.failed, report.checks = dict(failed or {}), check_run.checks()
            check_run.remember(report, self.state)
        return digest

    def share(self, one: Cell, other: Cell) -> None:
        """Let the engine call an image by another cell's name, too."""
        with closing(engines.client(self.engine)) as client:
            client.images.get(one.id).tag(other.repository, other.tag)
        self.made.append(other.id)

    def clean(self) -> None:
        """Take the images out of the engine, and what was remembered of them."""
        with closing(engines.client(self.engine)) as client:
            for name in self.made:
                with suppress(ImageNotFound):
                    client.images.remove(name, force=True)
        for file in (self.state.root / "checks").glob("*.json"):
            if any(cell.id in file.read_text() for cell in self.cells):
                file.unlink()


def _tar(files: Mapping[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return written.getvalue()


def _archive(name: str, labels: Mapping[str, str], layers: list[bytes]) -> bytes:
    """What `docker load` reads."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": dict(labels)},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        "history": [{"created_by": "COPY a layer"} for _ in layers],
    }
    paths = [f"layer-{index}.tar" for index in range(len(layers))]
    about = [{"Config": "config.json", "RepoTags": [name], "Layers": paths}]
    files = {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps(about).encode()}
    return _tar({**files, **dict(zip(paths, layers, strict=True))})
