"""What the tests of publishing share: keys, small images, the command."""

import io
import json
import os
import random
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import requests
from backports import zstd
from docker.errors import ImageNotFound

from hfdlc import project
from hfdlc.checks import report as reports
from hfdlc.checks.report import Report
from hfdlc.dockerfile import inputs
from hfdlc.engine import debian
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.oci.image import Image, archive, digest_of
from hfdlc.oci.store import LayerStore, StoredLayer
from hfdlc.project import Project
from hfdlc.state import State
from matrices import write

Ended = subprocess.CompletedProcess[str]
Hfdlc = Callable[..., Ended]
PASSWORD = "of a test"
METADATA = "Name: {name}\nLicense-Expression: MIT\n"
OWN = os.getpid()  # part of versions: two runs on one engine do not take each other's images away
RELEASE = """\
  - framework: pytorch 2.12.0
    transformers: 4.98.{number}.{own}
    datasets: 4.4.1
    python: 3.11
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
    images: list[Image] = field(default_factory=list)

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
        """Put an image of the cell into the layer store and the engine; its config digest."""
        described = {
            "title": cell.id,
            inputs.LABEL: inputs.text({"Dockerfile": "abc"}),
            "io.hfdlc.base": "a base",
            **(labels or {}),
        }
        python = {"torch": "2.13.0+cpu", "hf-inference-toolkit": "0.1.0", **(packages or {})}
        system = {
            "etc/os-release": b'ID=debian\nVERSION_ID="12"\n',
            "var/lib/dpkg/status": b"Package: libc6\nStatus: install ok installed\nVersion: 2.36-9\n\n",
            "run": str(OWN).encode(),
            "ballast": random.Random(ballast).randbytes(ballast),
        }
        site = f"opt/venv/lib/python{cell.python}/site-packages"
        files = {
            f"{site}/{name.replace('-', '_')}-{version}.dist-info/METADATA": METADATA.format(
                name=name
            ).encode()
            for name, version in python.items()
        }
        image = _stored(LayerStore.of(self.state), described, [_tar(system), _tar(files)])
        self.images.append(image)
        client = self.engine.client
        client.images.load(archive({cell.id: image}))  # type: ignore[arg-type] # pieces are fine, says requests
        digest = str(client.images.get(cell.id).id)
        self.made.append(cell.id)
        if checked or failed:
            report = Report(cell.id, digest, "2026-11-23T00:00:00+00:00", ["test_all: test_port"])
            report.config_digest = image.config_digest
            report.failed, report.checks = dict(failed or {}), reports.checks()
            if cell.cuda:  # as on a machine without a GPU
                report.not_run = {"test_gpu: test_the_gpu_is_seen": "needs a GPU: hfdlc test --gpus"}
            reports.remember(report, self.state)
        return image.config_digest

    def share(self, one: Cell, other: Cell) -> None:
        """Let the engine call an image by another cell's name, too."""
        client = self.engine.client
        client.images.get(one.id).tag(other.repository, other.tag)
        self.made.append(other.id)

    def clean(self) -> None:
        """Remove the images from the engine and the layer store, and their check results."""
        client = self.engine.client
        for name in self.made:
            with suppress(ImageNotFound):
                client.images.remove(name, force=True)
        for image in self.images:
            forms = [image, image.known_as_docker()]
            for layer in [layer for each in forms if each for layer in each.layers]:
                image.store.path(layer.digest).unlink(missing_ok=True)
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


def _stored(store: LayerStore, labels: Mapping[str, str], archives: list[bytes]) -> Image:
    """An image in the layer store, as a build leaves it there."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": dict(labels)},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in archives]},
        "history": [{"created_by": "COPY a layer"} for _ in archives],
    }
    layers = tuple(stored_layer(store, content) for content in archives)
    image = Image(json.dumps(config).encode(), layers, store)
    image.save()
    return image


def stored_layer(store: LayerStore, archive: bytes) -> StoredLayer:
    """An archive in the layer store, compressed as `image/pack.py` does it."""
    blob = zstd.compress(archive)
    about = {"diff_id": digest_of(archive), "digest": digest_of(blob), "size": len(blob)}
    with tempfile.TemporaryDirectory(dir=store.root) as folder:
        Path(folder, "layer.tar.zst").write_bytes(blob)
        Path(folder, "layer.json").write_text(json.dumps(about))
        layer = store.add(Path(folder))
    assert layer
    return layer


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
    root = debian.unpack({"trixie": ("docker-registry",)}, state.root / "tools" / "docker-registry", state)
    return str(root / "usr/bin/docker-registry")


def debian_cosign(version: str, state: State) -> str:
    """Cosign 2.5 of Debian 13 or 3.1 of Debian 14, unpacked below the state folder."""
    suite = {"2.5": "trixie", "3.1": "forky"}[version]
    folder, wanted = state.root / "tools" / f"cosign-{version}", {suite: ("cosign",)}
    try:
        machine = debian.release()
        # The archive of a release that is not published yet: it has no updates, and may be a few days old.
        archives = tuple(each for each in machine.archives if not each[0])
        root = debian.unpacked(wanted, folder) or debian.unpack(
            wanted, folder, state, replace(machine, archives=archives)
        )
    except HfdlcError as problem:
        pytest.skip(f"cosign {version} cannot be fetched: {problem}")
    return str(root / "usr/bin/cosign")


@contextmanager
def serving(program: str, folder: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """A registry that is empty; its host."""
    host = f"{address}:{free_port()}"
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
    """AWS's API, simulated by moto: ECR, STS and IAM; its address."""
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
        ("python: 3.10", "python: 3.11"),
        ("inference: [cpu, cu130]", "inference: [cpu, cu130]\n      training: [cpu]"),
        ("frameworks:\n", more + "frameworks:\n"),
        ("types:\n", "types:\n  training:\n    packages: [datasets]\n    size: {cpu: 1.9 GB, gpu: 9 GB}\n"),
    )
    found = project.find(root)
    for cell in found.cells:
        wanted = lockfile.lock_input(cell)
        held = {"framework": lockfile.entries("torch==2.13.0+cpu \\\n    --hash=sha256:00")}
        files = {
            lockfile.group_file(cell, group): lockfile.text(held.get(group, ())) for group in cell.groups
        }
        lockfile.write(files, wanted, root)
    return found
