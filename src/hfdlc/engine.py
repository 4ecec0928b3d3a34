"""The container engine that is used: one that answers and is recent enough, else a private one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import docker
from docker.context import ContextAPI
from docker.errors import DockerException
from packaging.version import Version

from hfdlc import private_engine
from hfdlc.errors import CommandFailed, HfdlcError
from hfdlc.private_engine import Folders
from hfdlc.process import run
from hfdlc.state import State

OLDEST_ENGINE = Version("23.0")  # the first whose own BuildKit knows named contexts and COPY --link
OLDEST_BUILDX = Version("0.13")  # the first with --progress=rawjson
DEFAULT_SOCKET = "unix:///var/run/docker.sock"


@dataclass(frozen=True)
class Engine:
    """An engine that answers."""

    host: str  # what DOCKER_HOST says of it
    version: str
    buildkit: str
    private: bool
    buildx: tuple[str, ...]  # how buildx is started
    containerd_store: bool  # it keeps OCI images as they are
    buildx_config: str

    @property
    def environment(self) -> dict[str, str]:
        """What programs that speak to it are started with; nothing is written to the home folder."""
        return {"DOCKER_HOST": self.host, "BUILDX_CONFIG": self.buildx_config, "BUILDX_BUILDER": "default"}


@dataclass(frozen=True)
class Answer:
    """What answers at an address, whether it can be used or not."""

    host: str
    version: str
    containerd_store: bool

    @property
    def is_recent(self) -> bool:
        """Whether its BuildKit is recent enough."""
        match = re.match(r"[0-9.]+[0-9]", self.version)
        return match is not None and Version(match[0]) >= OLDEST_ENGINE


def client(engine: Engine) -> docker.DockerClient:
    """docker-py, speaking to the engine."""
    return docker.DockerClient(engine.host, timeout=600)


def ask(host: str) -> Answer | None:
    """What answers at an address; None where nothing does."""
    try:
        with_client = docker.DockerClient(host, timeout=10)
        info = with_client.info()
    except (DockerException, OSError):
        return None
    status = dict(pair[:2] for pair in info.get("DriverStatus") or [])
    store = status.get("driver-type") == "io.containerd.snapshotter.v1"
    return Answer(host, str(info["ServerVersion"]), store)


def host_of_machine(environ: Mapping[str, str]) -> str:
    """The address that Docker's own client would use."""
    if host := environ.get("DOCKER_HOST"):
        return host
    context = ContextAPI.get_current_context()
    return context.Host if context and context.Host else DEFAULT_SOCKET


def find(environ: Mapping[str, str], state: State) -> Engine | None:
    """The engine of this machine if it answers and is recent enough, else the private one if it runs."""
    answer = ask(host_of_machine(environ))
    if answer and answer.is_recent:
        return _engine(answer, state)
    if private_engine.running(state) and (answer := ask(f"unix://{Folders.of(state).socket}")):
        return _engine(answer, state)
    return None


def ensure(environ: Mapping[str, str], state: State) -> Engine:
    """The engine that is found, else a private one that is started."""
    return find(environ, state) or start(environ, state)


def start(environ: Mapping[str, str], state: State) -> Engine:
    """Start the private engine if it does not run.

    Raises HfdlcError where this machine cannot run one, and says so if an engine answered that is too old.
    """
    try:
        folders = private_engine.start(state)
    except HfdlcError as error:
        answer = ask(host_of_machine(environ))
        if answer and not answer.is_recent:
            raise HfdlcError(
                f"the engine is too old: {answer.version}; a private one: {error.what}",
                where=answer.host,
                allowed=f"Docker {OLDEST_ENGINE} or newer",
                then=error.then,
            ) from error
        raise
    answer = ask(f"unix://{folders.socket}")
    if not answer:
        raise HfdlcError("the private engine does not answer", then=f"read {folders.log}")
    return _engine(answer, state)


def stop(state: State) -> bool:
    """Stop the private engine; give whether one ran."""
    return private_engine.stop(state)


def _engine(answer: Answer, state: State) -> Engine:
    private = answer.host == f"unix://{Folders.of(state).socket}"
    buildx_config = str(state.folder("buildx"))
    environment = {"DOCKER_HOST": answer.host, "BUILDX_CONFIG": buildx_config, "BUILDX_BUILDER": "default"}
    buildx = (str(Folders.of(state).buildx),) if private else _buildx(state)
    return Engine(
        answer.host,
        answer.version,
        _buildkit(buildx, environment),
        private,
        buildx,
        answer.containerd_store,
        buildx_config,
    )


def _buildx(state: State) -> tuple[str, ...]:
    """The machine's own buildx if it is recent enough, else the distribution's, unpacked."""
    try:
        told = run(["docker", "buildx", "version"]).stdout
    except HfdlcError:
        told = ""
    match = re.search(r"\bv?(\d+\.\d+\.\d+)", told)
    if match and Version(match[1]) >= OLDEST_BUILDX:
        return ("docker", "buildx")
    if not Folders.of(state).buildx.is_file():
        private_engine.unpack(state)
    return (str(Folders.of(state).buildx),)


def _buildkit(buildx: tuple[str, ...], environment: dict[str, str]) -> str:
    """The version of the engine's BuildKit, as buildx reads it."""
    try:
        told = run([*buildx, "inspect"], env=environment).stdout
    except CommandFailed as error:
        raise HfdlcError(f"the engine's BuildKit does not answer\n{error}", then="hfdlc doctor") from error
    match = re.search(r"^buildkit(?: version)?:\s*v?(\S+)", told, re.MULTILINE | re.IGNORECASE)
    return match[1] if match else "unknown"
