"""Finding the Docker engine: one that answers and is recent enough, else a private one."""

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address, ip_network
from typing import Any

import docker
from docker.errors import DockerException
from packaging.version import Version

from hfdlc.engine import context as address
from hfdlc.engine import private as private_engine
from hfdlc.engine.context import Address
from hfdlc.engine.folders import Folders
from hfdlc.errors import CommandFailed, HfdlcError
from hfdlc.process import run
from hfdlc.state import State

OLDEST_ENGINE = Version("23.0")  # the first one whose BuildKit supports named contexts and COPY --link
OLDEST_BUILDX = Version("0.13")  # the first with --progress=rawjson
PATIENCE = 5  # seconds to wait for an engine's version
TIMEOUT = 600  # seconds for one request
UNKNOWN = "unknown"  # the version of a BuildKit that does not report it
ARCHITECTURES = ("x86_64", "amd64")  # names of the one that the locked packages are for
TOO_OLD = f"Docker {OLDEST_ENGINE} or newer, for named contexts and COPY --link"


@dataclass(frozen=True)
class Engine:
    """A running engine. It owns one client; `close` ends it."""

    host: str  # as in DOCKER_HOST
    version: str
    private: bool
    buildx: tuple[str, ...]  # the command
    containerd_store: bool  # whether it uses the containerd image store
    buildx_config: str
    address: Address
    environ: Mapping[str, str] = field(repr=False)  # for programs that are started

    @cached_property
    def client(self) -> docker.DockerClient:
        """The docker-py client, connected until `close`."""
        return self.address.client(TIMEOUT)

    def close(self) -> None:
        if client := self.__dict__.pop("client", None):
            client.close()

    def is_insecure(self, registry: str) -> bool:
        """Whether the engine's configuration lists the host as an insecure registry."""
        found = self.client.info().get("RegistryConfig") or {}
        known = (found.get("IndexConfigs") or {}).get(registry)
        if known is not None:
            return not known["Secure"]
        try:
            address = ip_address(registry.rpartition(":")[0] or registry)
        except ValueError:
            return False
        return any(address in ip_network(each) for each in found.get("InsecureRegistryCIDRs") or [])

    def check_architecture(self) -> None:
        """Raise HfdlcError if the engine is on a machine that the locked packages are not for."""
        found = str(self.client.info()["Architecture"])
        if found not in ARCHITECTURES:
            raise HfdlcError(
                f"this engine is on {found}, and the packages of images are locked for x86_64",
                location=self.host,
                allowed="an engine on x86_64",
                hint="set DOCKER_HOST to one, or select its context with `docker context use`",
            )

    @cached_property
    def buildkit(self) -> str:
        """The version of its BuildKit, from buildx, which is slow.

        Raises HfdlcError if it does not answer.
        """
        return _buildkit(self)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of programs that use the engine. It keeps buildx out of the home folder."""
        return {
            **self.environ,
            **self.address.environment,
            "BUILDX_CONFIG": self.buildx_config,
            "BUILDX_BUILDER": "default",
            "BUILDX_GIT_INFO": "false",  # otherwise it would be part of images
        }


@dataclass(frozen=True)
class Answer:
    """An engine that answers at an address, recent enough or not."""

    host: str
    version: str
    containerd_store: bool
    has_buildkit: bool = True

    @property
    def is_usable(self) -> bool:
        return self.is_recent and self.has_buildkit

    @property
    def is_recent(self) -> bool:
        match = re.match(r"\d+(\.\d+)*", self.version)
        return match is not None and Version(match[0]) >= OLDEST_ENGINE


def query(where: Address) -> Answer | None:
    """The engine at an address; None if none answers."""
    try:
        with closing(where.client(PATIENCE)) as client:
            info = client.info()
            ping = client.api.get(f"{client.api.base_url}/_ping")
    except (DockerException, OSError):
        return None
    status = dict(pair[:2] for pair in info.get("DriverStatus") or [])
    store = status.get("driver-type") == "io.containerd.snapshotter.v1"
    # Other engines with Docker's API (Podman) leave the header empty.
    return Answer(where.host, str(info["ServerVersion"]), store, bool(ping.headers.get("Builder-Version")))


def find(environ: Mapping[str, str], state: State) -> Engine | None:
    """The Docker engine if it answers and is recent enough, else the private one if it runs."""
    where, ours = address.of_machine(environ), Folders.of(state).address
    answer = query(where)
    if answer and answer.is_usable:
        return _engine(where, answer, state, environ)
    if private_engine.running(state) and (answer := query(ours)):
        return _engine(ours, answer, state, environ)
    return None


def ensure(environ: Mapping[str, str], state: State) -> Engine:
    """The engine that `find` returns, else a private one, which is started."""
    return find(environ, state) or start(environ, state)


def start(environ: Mapping[str, str], state: State) -> Engine:
    """Start the private engine if it does not run.

    Raises HfdlcError if this machine cannot run one; the message names a Docker engine that is too old.
    """
    try:
        folders = private_engine.start(state, environ)
    except HfdlcError as error:
        answer = query(address.of_machine(environ))
        if answer and not answer.is_usable:
            raise _unusable(answer, error) from error
        raise
    answer = query(folders.address)
    if not answer:
        raise HfdlcError("the private engine does not answer", hint=f"see {folders.log}")
    return _engine(folders.address, answer, state, environ)


def _unusable(answer: Answer, error: HfdlcError) -> HfdlcError:
    what = f"is too old: {answer.version}" if answer.has_buildkit else "has no BuildKit"
    return HfdlcError(
        f"the engine {what}; and for a private engine: {error.message}",
        location=answer.host,
        allowed=TOO_OLD,
        hint=error.hint,
    )


def stop(state: State) -> bool:
    """Stop the private engine; returns whether one was running."""
    return private_engine.stop(state)


def prune(engine: Engine, keep: float) -> int:
    """Remove dangling images, and the least recently used build cache beyond `keep` GB; returns freed bytes.

    Records are removed by id, because pruning the whole cache keeps records that BuildKit marks as shared,
    like those of the stages that install the packages of GPU images.
    """
    freed = 0
    client = engine.client
    client.images.prune({"dangling": True})
    while True:
        records = _unused(client)
        over = sum(one["Size"] for one in records) - keep * 1e9
        before = freed
        for one in sorted(records, key=lambda one: str(one.get("LastUsedAt"))):
            if over <= freed - before:
                return freed
            which: Any = {"id": one["ID"]}
            result = client.api.prune_builds(filters=which, all=True)
            freed += int(result["SpaceReclaimed"])
        if freed == before:  # the remaining records depend on each other
            return freed


def unused_cache(engine: Engine) -> int:
    """The bytes of build cache that are not in use, which `prune` can remove."""
    client = engine.client
    return sum(int(one["Size"]) for one in _unused(client))


def _unused(client: docker.DockerClient) -> list[dict[str, Any]]:
    """The records of build cache that are not in use.

    From API 1.52 `verbose` lists them in `BuildCacheUsage`; from 1.53 there is no `BuildCache`.
    """
    url = f"{client.api.base_url}/v{client.api.api_version}/system/df"
    answer = client.api.get(url, params={"type": "build-cache", "verbose": "1"}, timeout=TIMEOUT)
    answer.raise_for_status()
    found = answer.json()
    usage = found.get("BuildCacheUsage") or {"Items": found.get("BuildCache")}
    return [one for one in usage.get("Items") or [] if not one["InUse"]]


def _engine(where: Address, answer: Answer, state: State, environ: Mapping[str, str]) -> Engine:
    private = where == Folders.of(state).address
    config = str(state.folder("buildx"))
    buildx = (str(Folders.of(state).buildx),) if private else find_buildx(state)
    return Engine(
        answer.host, answer.version, private, buildx, answer.containerd_store, config, where, environ
    )


def find_buildx(state: State) -> tuple[str, ...]:
    """The installed buildx if it is recent enough, else Debian's, unpacked into the state folder.

    Raises HfdlcError if there is neither.
    """
    for argv in (("docker", "buildx"), ("docker-buildx",)):
        if buildx_version(argv) >= OLDEST_BUILDX:
            return argv
    try:
        return (str(private_engine.unpack_buildx(state)),)
    except HfdlcError as error:
        raise HfdlcError(
            f"no recent docker buildx, and Debian's is unavailable: {error.message}",
            allowed=f"buildx {OLDEST_BUILDX} or newer, for --progress=rawjson",
            hint=error.hint or "install docker-buildx",
        ) from error


def buildx_version(argv: tuple[str, ...]) -> Version:
    """The version of a buildx; 0 if there is none."""
    try:
        output = run([*argv, "version"]).stdout
    except HfdlcError:
        return Version("0")
    match = re.search(r"\bv?(\d+\.\d+\.\d+)", output)
    return Version(match[1]) if match else Version("0")


def _buildkit(engine: Engine) -> str:
    """The version of the engine's BuildKit, from buildx. Builds of distributions may not report it."""
    try:
        output = run([*engine.buildx, "inspect"], env=engine.environment).stdout
    except CommandFailed as error:
        raise HfdlcError(f"the engine's BuildKit does not answer\n{error}", hint="hfdlc doctor") from error
    known = buildkit_version(output)
    return f"of Docker {engine.version}" if known == UNKNOWN else known


def buildkit_version(about: str) -> str:
    """The version of BuildKit in the output of `buildx inspect`; `unknown` if it reports none."""
    match = re.search(r"^buildkit(?: version)?:\s*v?(\S+)", about, re.MULTILINE | re.IGNORECASE)
    return match[1] if match and UNKNOWN not in match[1] else UNKNOWN
