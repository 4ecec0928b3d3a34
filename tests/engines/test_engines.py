"""One CPU cell on each kind of engine: built, checked, published and cleaned, from an empty layer store."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import docker
import pytest

import modern_engine
from engines import copy_programs
from hfdlc.engine import private
from hfdlc.engine.context import Address
from hfdlc.engine.folders import Folders
from hfdlc.oci.registry import Registry
from hfdlc.project import Project
from hfdlc.publish import signing
from hfdlc.state import State
from parts import PASSWORD, Ended, docker_registry, fine, key_pair, serving

HFDLC = str(Path(sys.executable).with_name("hfdlc"))
KEPT = ("bases", "tools/cosign", "tools/docker-registry")  # downloads that all engines use
SOURCES = ("matrix.yaml", "pyproject.toml", ".dockerignore", "image", "images", "templates", "toolkit")
# The engine, its version, whether it has the containerd image store.
KINDS = {
    "docker-26-private": ("26.", True),
    "docker-28-containerd": ("28.", True),
    "docker-28-classic": ("28.", False),
    "docker-28-remote": ("28.", True),
}
Contexts = Callable[[str, str], dict[str, str]]
DIGESTS: dict[str, str | None] = {}  # by version of the engine: the image that the first of them made
pytestmark = [
    pytest.mark.engine,
    pytest.mark.engines,
    pytest.mark.skipif(os.geteuid() != 0, reason="starting an engine needs root"),
]


@pytest.fixture
def own(state: State) -> Iterator[State]:
    """A state folder with downloads and without layers. Its path is short, for the sockets below it."""
    own = State(Path(tempfile.mkdtemp(prefix="e-", dir=state.folder("tmp"))))
    for name in KEPT:
        if (state.root / name).is_dir():
            shutil.copytree(state.root / name, own.root / name, symlinks=True, copy_function=os.link)
    copy_programs(state, own)
    yield own
    private.stop(own)
    shutil.rmtree(own.root)


@pytest.fixture
def environ(request: pytest.FixtureRequest, state: State, own: State) -> Iterator[dict[str, str]]:
    """The environment of programs that use an engine of the kind that the test names."""
    kind = str(request.param)
    with ExitStack() as started:
        if kind == "docker-26-private":
            used = {**os.environ, "DOCKER_HOST": "unix:///nowhere.sock"}
        else:
            store = "classic" if kind.endswith("classic") else "containerd"
            remote = kind.endswith("remote")
            used = started.enter_context(modern_engine.running(state, store, remote=remote)).environment
        yield {**used, "HFDLC_STATE": str(own.root)}


@pytest.fixture
def copied(repository: Project, tmp_path: Path) -> Path:
    """A copy of the repository, where publishing writes its record."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in SOURCES:
        source = repository.root / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        elif source.is_file():
            shutil.copy(source, folder / name)
    return folder


@pytest.mark.parametrize(("environ", "kind"), [(each, each) for each in KINDS], indirect=["environ"])
def test_cell_is_built_checked_published_and_cleaned(
    environ: dict[str, str], kind: str, own: State, state: State, copied: Path, repository: Project,
    tmp_path: Path,
) -> None:  # fmt: skip
    """With the engine's own BuildKit and image store; what is removed is only the build cache."""
    version, containerd_store = KINDS[kind]
    cell = repository.default
    keys = key_pair(signing.find_program(state, os.environ), tmp_path)
    environ |= {"COSIGN_KEY": keys.private, "COSIGN_PUBLIC_KEY": keys.public, "COSIGN_PASSWORD": PASSWORD}

    def hfdlc(*words: str) -> Ended:
        return subprocess.run(
            [HFDLC, *words], cwd=copied, env=environ, capture_output=True, text=True, timeout=900
        )

    fine(hfdlc("build", "--check", cell.id))
    host = environ["DOCKER_HOST"] if kind != "docker-26-private" else Folders.of(own).address.host
    client = Address(host).client(60)
    try:
        info = client.info()
        assert str(info["ServerVersion"]).startswith(version)
        assert ("containerd.snapshotter" in json.dumps(info["DriverStatus"])) == containerd_store
        with serving(docker_registry(state), tmp_path / "registry") as registry:
            fine(hfdlc("publish", cell.id, "--registry", registry))
            fine(hfdlc("verify", f"{registry}/{cell.id}"))
            digest = Registry(registry).manifest(cell.repository, cell.tag).config_digest
        # The history is in the words of the engine's BuildKit.
        assert DIGESTS.setdefault(str(info["ServerVersion"]), digest) == digest
        _cleaned(client, hfdlc("clean", "--yes", "--keep", "0"))
        assert client.images.get(cell.id)
        assert fine(hfdlc("build", cell.id)).stderr == f"{cell.id} is up to date\n"
        assert client.containers.list(all=True) == []
        assert client.volumes.list() == []
    finally:
        client.close()


@pytest.fixture
def contexts(tmp_path: Path) -> Contexts:
    """Adds a Docker context, and gives the environment in which it is the builder."""
    folder = tmp_path / "docker"

    def add(name: str, host: str) -> dict[str, str]:
        own = {**os.environ, "DOCKER_CONFIG": str(folder)}
        argv = ["docker", "context", "create", name, "--docker", f"host={host}"]
        subprocess.run(argv, env=own, check=True, capture_output=True)
        return {"DOCKER_CONFIG": str(folder), "BUILDX_BUILDER": name}

    return add


def test_builder_of_another_context_builds_for_the_private_engine(
    own: State, state: State, copied: Path, repository: Project, contexts: Contexts
) -> None:
    """It shares no files with this machine. The image is the one that its engine would build itself."""
    cell = repository.default
    with modern_engine.running(state, remote=True) as other:
        environ = {**other.environment, "DOCKER_HOST": "unix:///nowhere.sock", "HFDLC_STATE": str(own.root)}
        environ |= contexts("other", other.host)
        ended = subprocess.run(
            [HFDLC, "build", "--check", cell.id],
            cwd=copied, env=environ, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        fine(ended)
        assert "building with the builder 'other' of BUILDX_BUILDER\n" in ended.stderr
        with closing(Address(other.host).client(60)) as client:
            assert client.images.list() == []
            assert any(one["Size"] for one in client.api.df()["BuildCache"])
            version = str(client.info()["ServerVersion"])
        with closing(Folders.of(own).address.client(60)) as client:
            assert client.images.get(cell.id)
            assert not any(one["Size"] for one in client.api.df()["BuildCache"] or [])
        digest = json.loads(fine(_facts(cell.id, copied, environ)).stdout)["config_digest"]
        assert DIGESTS.setdefault(version, digest) == digest


def _facts(cell: str, folder: Path, environ: dict[str, str]) -> Ended:
    argv = [HFDLC, "facts", cell, "--json"]
    return subprocess.run(argv, cwd=folder, env=environ, capture_output=True, text=True, timeout=300)


def test_builder_that_cannot_be_used_ends_the_build_before_anything_is_made(
    own: State, state: State, copied: Path, contexts: Contexts
) -> None:
    """One that does not exist, one whose engine does not answer, and one whose engine exports no images."""
    plugins = modern_engine.unpack(state) / modern_engine.PLUGINS
    path = f"{plugins}:{os.environ.get('PATH', os.defpath)}"
    environ = {**os.environ, "PATH": path, "HFDLC_STATE": str(own.root)}
    environ |= {"DOCKER_HOST": "unix:///nowhere.sock", **contexts("silent", "tcp://127.0.0.1:1")}

    def build(builder: str) -> Ended:
        used = environ | {"BUILDX_BUILDER": builder}
        argv = [HFDLC, "build"]
        return subprocess.run(argv, cwd=copied, env=used, capture_output=True, text=True, timeout=100)

    files = sorted(own.root.rglob("*")), sorted(copied.rglob("*"))
    ended = build("nowhere")
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: BUILDX_BUILDER: buildx has no builder 'nowhere'; it has default, silent\n"
    )
    ended = build("silent")
    assert ended.returncode == 1
    assert "BUILDX_BUILDER: the builder 'silent' does not answer: " in ended.stderr
    assert "connect" in ended.stderr.lower()
    assert (sorted(own.root.rglob("*")), sorted(copied.rglob("*"))) == files
    with modern_engine.running(state, "classic") as classic:
        contexts("classic", classic.host)
        ended = build("classic")
    assert ended.returncode == 1
    assert "the builder 'classic' cannot export images: its engine uses Docker's classic" in ended.stderr
    assert "DOCKER_CONTEXT=classic" in ended.stderr
    assert (sorted(own.root.rglob("*")), sorted(copied.rglob("*"))) == files


def _cleaned(client: docker.DockerClient, ended: Ended) -> None:
    """No build cache is left that takes space."""
    fine(ended)
    left = [one for one in client.api.df()["BuildCache"] or [] if not one["InUse"]]
    assert sum(one["Size"] for one in left) == 0, left


def test_killed_owner_leaves_no_engine(state: State, tmp_path: Path) -> None:
    """No process, no mount and no network device is left of an engine whose owner is killed."""
    program = tmp_path / "owner.py"
    program.write_text(
        "import os, sys, time\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import modern_engine\n"
        "from hfdlc.state import State\n"
        "with modern_engine.running(State.of(os.environ)) as engine:\n"
        "    print(engine.process, flush=True)\n"
        "    time.sleep(600)\n"
    )
    tools = str(Path(modern_engine.__file__).parent)
    own = {**os.environ, "HFDLC_STATE": str(state.root)}
    owner = subprocess.Popen(
        [sys.executable, str(program), tools], env=own, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout
    process = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    for _ in range(100):
        if not Path(f"/proc/{process}").exists():
            break
        subprocess.run(["sleep", "0.1"], check=True)
    assert not Path(f"/proc/{process}").exists()
    folder = state.folder("tmp") / f"docker-{owner.pid}-0"
    assert folder.is_dir()
    assert str(folder) not in Path("/proc/mounts").read_text()
    running = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()]
    assert not [command for command in running if str(folder).encode() in command]
    # The next engine removes what only its owner could.
    with modern_engine.running(state):
        assert not folder.exists()


def test_engine_that_does_not_start_is_reported_in_one_line(
    state: State, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the reason that its log ends with."""
    monkeypatch.setattr(modern_engine, "_options", lambda *_: ["--no-such-option"])
    assert modern_engine.main(["--", "true"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the engine did not start: ")
    assert error.count("\n") == 1
    assert not list(state.folder("tmp").glob(f"docker-{os.getpid()}-*"))
