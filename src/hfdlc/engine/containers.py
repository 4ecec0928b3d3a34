"""Containers and volumes that are removed after use."""

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from docker.errors import APIError, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import DeviceRequest

from hfdlc.engine.detect import Engine
from hfdlc.engine.images import not_built
from hfdlc.errors import HfdlcError

# Labels with the process and the machine that created a container or volume.
LABEL, MACHINE = "io.hfdlc.run", "io.hfdlc.machine"
Volumes = Mapping[str, Mapping[str, str]]  # name -> bind, mode

RESTRICTED: dict[str, Any] = {
    "user": "12345:12345",
    "read_only": True,
    "tmpfs": {"/tmp": ""},  # noqa: S108 - a mount point in the container
    "cap_drop": ["ALL"],
}


def labels() -> dict[str, str]:
    """The labels of containers and volumes that this process removes."""
    return {LABEL: str(os.getpid()), MACHINE: platform.node()}


@contextmanager
def started(
    image: str,
    command: list[str],
    engine: Engine,
    *,
    environment: Mapping[str, str] | None = None,
    volumes: Volumes | None = None,
    entrypoint: list[str] | None = None,
    gpus: bool = False,
    restricted: bool = False,
) -> Iterator[Container]:
    """A running container without network, for `exec`.

    `restricted`: as a user without a name, on a read-only file system beside /tmp, without capabilities.

    Raises HfdlcError if there is no such image.
    """
    container = create(
        image,
        command,
        engine,
        gpus=gpus,
        entrypoint=entrypoint,
        network_mode="none",
        environment=dict(environment or {}),
        volumes={name: dict(mount) for name, mount in (volumes or {}).items()},
        **(RESTRICTED if restricted else {}),
    )
    try:
        start(container)
        yield container
    finally:
        remove(container)


def create(
    image: str, command: list[str], engine: Engine, *, gpus: bool = False, **options: Any
) -> Container:
    """A container that is not started, with the labels that `remove_strays` looks for.

    `gpus`: with all GPUs of the engine's machine. `options`: those of docker-py. Raises HfdlcError if there
    is no such image.
    """
    every_gpu = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
    try:
        return engine.client.containers.create(
            image, command, device_requests=every_gpu if gpus else None, labels=labels(), **options
        )
    except ImageNotFound as error:
        raise not_built(image) from error


class NoGpu(HfdlcError):
    """The engine cannot give a container a GPU."""


def start(container: Container) -> None:
    """Start a container; raises NoGpu if the engine cannot give it the GPU that it needs."""
    try:
        container.start()
    except APIError as error:
        if "could not select device driver" not in str(error):
            raise
        raise NoGpu(
            "the engine cannot give containers a GPU",
            location=str(container.client.api.base_url) if container.client else "",
            hint="install the NVIDIA Container Toolkit on the machine of the engine, or omit --gpus",
        ) from error


@contextmanager
def idle(
    image: str, engine: Engine, volumes: Volumes | None = None, *, gpus: bool = False
) -> Iterator[Container]:
    """A container of the image that sleeps, for `exec`."""
    with started(image, ["infinity"], engine, entrypoint=["sleep"], volumes=volumes, gpus=gpus) as container:
        yield container


@contextmanager
def volume(engine: Engine) -> Iterator[str]:
    """The name of a volume for several containers. The engine may be remote."""
    made = engine.client.volumes.create(labels=labels())
    try:
        yield str(made.name)
    finally:
        made.remove(force=True)


def remove_strays(engine: Engine) -> list[str]:
    """Remove containers, networks and volumes of killed processes on this machine; returns their names."""
    client = engine.client
    wanted: dict[str, str | list[str] | bool] = {"label": [LABEL, f"{MACHINE}={platform.node()}"]}
    removed = []
    for container in client.containers.list(all=True, filters=wanted, ignore_removed=True):
        if not Path("/proc", container.labels[LABEL]).exists():
            removed.append(str(container.name))
            remove(container)
    for network in client.networks.list(filters=wanted):
        if not Path("/proc", network.attrs["Labels"][LABEL]).exists():
            removed.append(str(network.name))
            with suppress(NotFound):
                network.remove()
    for left in client.volumes.list(filters=wanted):
        if not Path("/proc", left.attrs["Labels"][LABEL]).exists():
            removed.append(str(left.name))
            left.remove(force=True)
    return removed


def remove(container: Container) -> None:
    """Remove a container with its volumes, if another process has not."""
    try:
        container.remove(force=True, v=True)
    except NotFound:  # another process has removed it
        pass
    except APIError as error:
        if "already in progress" not in str(error):
            raise


def execute(container: Container, argv: list[str]) -> tuple[int, bytes, bytes]:
    """Run a program in the container: its exit code, output and errors.

    Raises HfdlcError if the engine knows no exit code, as when the container ends before the program.
    """
    status, output = container.exec_run(argv, demux=True)
    if status is None:
        raise HfdlcError(
            f"{argv[0]} has no exit code: the container ended, or the engine lost the connection to it",
            location=str(container.attrs["Config"]["Image"]),
        )
    out, err = cast("tuple[bytes | None, bytes | None]", output)
    return status, out or b"", err or b""


def python(container: Container, script: str) -> str:
    """Run a Python script in the container, and return its output.

    Raises HfdlcError with the last lines if it fails.
    """
    status, out, err = execute(container, ["python", "-c", script])
    if status:
        tail = "\n".join(f"    {line}" for line in (err or out).decode(errors="replace").splitlines()[-8:])
        raise HfdlcError(
            f"a script failed inside the container\n{tail}", location=str(container.attrs["Config"]["Image"])
        )
    return out.decode()
