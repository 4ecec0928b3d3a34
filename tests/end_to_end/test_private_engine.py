"""A private engine of its own, and bases made from packages: what only the real programs show."""

import hashlib
import os
import shutil
import signal
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import copy_programs
from hfdlc.build import bases
from hfdlc.engine import detect, private
from hfdlc.engine.detect import Engine
from hfdlc.engine.folders import Folders
from hfdlc.matrix.schema import Bootstrap
from hfdlc.state import State

NOWHERE = {"DOCKER_HOST": "unix:///nowhere.sock", "PATH": os.environ.get("PATH", os.defpath)}
LABEL = "test.engine"
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0, reason="a private engine needs root"),
]


@pytest.fixture(scope="module")
def own(used_engine: Engine, state: State) -> Iterator[State]:
    """A state folder whose engine a test may kill. Its path is short, for the sockets below it."""
    own = State(Path("/tmp") / f"hfdlc-engine-{os.getpid()}")
    copy_programs(state, own)
    yield own
    private.stop(own)
    shutil.rmtree(own.root)


@pytest.fixture(scope="module")
def minimal(own: State) -> Path:
    """The smallest Debian, as files in a tar."""
    target = own.folder("bases") / "first.tar"
    bases._bootstrap(Bootstrap(suite="bookworm", packages=[]), target, own, os.environ)
    return target


def with_a_container(state: State, archive: Path) -> tuple[Engine, str]:
    """An engine that runs, and in it a container that does."""
    used = detect.ensure(NOWHERE, state)
    client = used.client
    with archive.open("rb") as file:
        client.images.load(file)
        container = client.containers.run(
            "hfdlc.local/minimal:1",
            ["sleep", "1234"],
            detach=True,
            init=True,
            network_mode="none",
            labels={LABEL: "1"},
        )
        return used, str(container.id)


def kill(state: State, *, containerd: bool = True) -> None:
    """End the engine, and its containerd too, as a crash would."""
    folders = Folders.of(state)
    files = [folders.pidfile, folders.containerd / "containerd.pid"]
    for file in files if containerd else files[:1]:
        os.kill(int(file.read_text()), signal.SIGKILL)
    while private.running(state):
        time.sleep(0.05)


def programs_below(folder: Path) -> list[str]:
    """The command lines of what runs from it."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_text())
        except OSError:
            continue
    return [line for line in lines if line.startswith(str(folder))]


@pytest.fixture(scope="module")
def image(own: State, minimal: Path) -> Path:
    archive = own.root / "bases" / "image.tar"
    bases._pack(minimal, "hfdlc.local/minimal:1", {}, archive)
    return archive


@pytest.mark.parametrize("containerd", [True, False], ids=["with containerd", "alone"])
def test_engine_starts_again_after_it_was_killed(own: State, image: Path, containerd: bool) -> None:
    """Its images and containers are there, containers that ran have ended, and new ones can run."""
    used, container = with_a_container(own, image)
    kill(own, containerd=containerd)
    assert detect.find(NOWHERE, own) is None
    again = detect.ensure(NOWHERE, own)
    assert again == used
    client = again.client
    assert client.containers.get(container).status == "exited"
    said = client.containers.run("hfdlc.local/minimal:1", ["echo", "on"], network_mode="none", remove=True)
    assert said == b"on\n"


def test_stop_after_a_crash_ends_all_programs(own: State, image: Path) -> None:
    """No program, no container, no mount: the state folder can be removed."""
    with_a_container(own, image)
    kill(own)
    assert programs_below(own.root)  # what holds the container outlives the engine
    private.stop(own)
    assert programs_below(own.root) == []
    assert str(own.root) not in Path("/proc/self/mounts").read_text()


def test_private_engine_writes_only_below_the_state_folder(own: State) -> None:
    """Docker and containerd keep nothing in their usual places."""
    places = [
        Path(name) for name in ("/etc/docker", "/var/lib/docker", "/var/lib/containerd", "/opt/containerd")
    ]
    before = [place.exists() for place in places]
    detect.ensure(NOWHERE, own)
    assert [place.exists() for place in places] == before


def test_bootstrapped_base_is_reproducible(own: State, minimal: Path) -> None:
    """Made twice, no byte differs."""
    again = minimal.with_name("again.tar")
    bases._bootstrap(Bootstrap(suite="bookworm", packages=[]), again, own, os.environ)
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (minimal, again)]
    again.unlink()
    assert digests[0] == digests[1]


def test_bootstrapped_base_has_nothing_of_the_building_machine(minimal: Path, own: State) -> None:
    """No mirror, no host's name, no machine id, no lists, caches or logs of packages."""
    with tarfile.open(minimal) as tar:
        files = {file.name.removeprefix("./"): file for file in tar if file.isfile()}
        sources = tar.extractfile(files["etc/apt/sources.list"])
        assert sources
        assert sources.read().startswith(b"# This base has no package source")
    assert "etc/hostname" not in files
    for name in ("etc/resolv.conf", "etc/machine-id"):
        assert files[name].size == 0
    left = ("var/lib/apt/lists/", "var/cache/apt/", "var/log/", "usr/share/man/", "etc/apt/apt.conf.d/99")
    assert [name for name, file in files.items() if name.startswith(left) and file.size] == []
    kept = {name.rpartition("/")[2] for name in files if name.startswith("usr/share/doc/")}
    assert kept == {"copyright"}
