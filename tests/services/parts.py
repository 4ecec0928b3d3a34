"""What the tests of publishing hold in their hands: keys, small images, the command."""

import io
import json
import os
import random
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
from docker.errors import ImageNotFound

from hfdlc import project
from hfdlc.checks import report as reports
from hfdlc.checks.report import Report
from hfdlc.dockerfile import inputs
from hfdlc.engine import debian
from hfdlc.engine.detect import Engine
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.oci.image import digest_of
from hfdlc.project import Project
from hfdlc.state import State
from matrices import write

Ended = subprocess.CompletedProcess[str]
Hfdlc = Callable[..., Ended]
PASSWORD = "of a test"
OWN = os.getpid()  # part of versions: two runs on one engine do not take each other's images away
RELEASE = """\
  - framework: pytorch 2.12.0
    transformers: 4.98.{number}.{own}
    datasets: 4.4.1
    python: 3.10
    os: debian12
    cutoff: 2026-06-20
    cells:
      inference: [cpu]
"""


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
            "ballast": random.Random(ballast).randbytes(ballast),
        }
        site = f"opt/venv/lib/python{cell.python}/site-packages"
        files = {
            f"{site}/{name.replace('-', '_')}-{version}.dist-info/METADATA": f"Name: {name}\n".encode()
            for name, version in python.items()
        }
        client = self.engine.client
        client.images.load(_archive(cell.id, said, [_tar(system), _tar(files)]))
        digest = str(client.images.get(cell.id).id)
        self.made.append(cell.id)
        if checked or failed:
            report = Report(cell.id, digest, "2026-11-23T00:00:00+00:00", ["test_all: test_port"])
            report.failed, report.checks = dict(failed or {}), reports.checks()
            if cell.cuda:  # as on a machine without a GPU
                report.not_run = {"test_gpu: test_the_gpu_is_seen": "needs a GPU: hfdlc test --gpus"}
            reports.remember(report, self.state)
        return digest

    def share(self, one: Cell, other: Cell) -> None:
        """Let the engine call an image by another cell's name, too."""
        client = self.engine.client
        client.images.get(one.id).tag(other.repository, other.tag)
        self.made.append(other.id)

    def clean(self) -> None:
        """Take the images out of the engine, and what was remembered of them."""
        client = self.engine.client
        for name in self.made:
            with suppress(ImageNotFound):
                client.images.remove(name, force=True)
        for file in (self.state.root / "checks").glob("*.json"):
            with suppress(FileNotFoundError):  # another run tidies too
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


def fine(ended: Ended) -> Ended:
    """A command that must go well."""
    assert ended.returncode == 0, ended.stderr
    return ended


def free_port() -> int:
    """A port of loopback that nothing has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Until a server answers that was started."""
    for _ in range(300):
        with suppress(requests.ConnectionError):
            requests.get(url, timeout=5)
            return
        assert process.poll() is None, f"the server of {url} ended"
        time.sleep(0.1)
    pytest.fail(f"{url} does not answer")


def docker_registry(state: State) -> str:
    """Debian's docker-registry, unpacked below the state folder."""
    folder, wanted = state.root / "tools" / "docker-registry", {"trixie": ("docker-registry",)}
    root = debian.unpacked(wanted, folder) or debian.unpack(wanted, folder, debian.release(), state)
    return str(root / "usr/bin/docker-registry")


@contextmanager
def serving(program: str, folder: Path) -> Iterator[str]:
    """A registry that is empty; its host."""
    host = f"127.0.0.1:{free_port()}"
    folder.mkdir()
    settings = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder)}, "delete": {"enabled": True}},
        "http": {"addr": host},
    }
    (folder / "config.yml").write_text(json.dumps(settings))
    with (folder / "log").open("w") as log:
        command = [program, "serve", str(folder / "config.yml")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(f"http://{host}/v2/", process)
        yield host
    finally:
        process.terminate()
        process.wait()


@contextmanager
def aws_api() -> Iterator[str]:
    """AWS's API as moto plays it: ECR, STS and IAM; its address."""
    port = free_port()
    program = str(Path(sys.executable).with_name("moto_server"))
    process = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/moto-api/", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def aws_environ(url: str) -> dict[str, str]:
    """The environment in which boto3 speaks to that API."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def key_pair(cosign: str, folder: Path) -> Keys:
    """Two new keys of cosign's."""
    environ = {**os.environ, "COSIGN_PASSWORD": PASSWORD}
    subprocess.run([cosign, "generate-key-pair"], cwd=folder, env=environ, check=True, capture_output=True)
    return Keys(str(folder / "cosign.key"), str(folder / "cosign.pub"))


def write_project(root: Path, releases: int = 0) -> Project:
    """A project with two repositories, locked; with more `releases` of one cell each."""
    (root / "toolkit").mkdir(parents=True)
    (root / "toolkit" / "pyproject.toml").write_text('[project]\nversion = "0.1.0"\n')
    more = "".join(RELEASE.format(number=number, own=OWN) for number in range(releases))
    write(
        root,
        ("transformers5.23.0", f"transformers5.99.{OWN}"),
        ("transformers: 5.23.0", f"transformers: 5.99.{OWN}"),
        ("transformers: 4.57.6", f"transformers: 4.99.{OWN}"),
        ("inference: [cpu, cu130]", "inference: [cpu, cu130]\n      training: [cpu]"),
        ("frameworks:\n", more + "frameworks:\n"),
        ("types:\n", "types:\n  training:\n    packages: [datasets]\n    size: {cpu: 1.9 GB, gpu: 9 GB}\n"),
    )
    found = project.find(root)
    for cell in found.cells:
        asked = lockfile.request(cell)
        held = {"framework": lockfile.entries("torch==2.13.0+cpu \\\n    --hash=sha256:00")}
        files = {
            lockfile.group_file(cell, group): lockfile.text(held.get(group, ())) for group in cell.groups
        }
        lockfile.write(files, asked, root)
    return found
