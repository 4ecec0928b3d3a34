"""Containers that are gone when they have done their work, however that ends."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from docker.errors import ImageNotFound
from docker.models.containers import Container

from hfdlc import engine as engines
from hfdlc.engine import Engine
from hfdlc.errors import HfdlcError

LABEL = "io.hfdlc.run"  # a container of ours says which process started it


@contextmanager
def started(
    image: str,
    command: list[str],
    engine: Engine,
    *,
    environment: Mapping[str, str] | None = None,
    volumes: Mapping[str, Mapping[str, str]] | None = None,
    entrypoint: list[str] | None = None,
) -> Iterator[Container]:
    """Run an image without any network; speak to it by `exec`.

    Raises HfdlcError where there is no such image.
    """
    try:
        container = engines.client(engine).containers.run(
            image,
            command,
            detach=True,
            entrypoint=entrypoint,
            network_mode="none",
            environment=dict(environment or {}),
            volumes={name: dict(mount) for name, mount in (volumes or {}).items()},
            labels={LABEL: str(os.getpid())},
        )
    except ImageNotFound as error:
        raise HfdlcError(
            "there is no such image in the engine", where=image, then=f"hfdlc build {image}"
        ) from error
    try:
        yield container
    finally:
        container.remove(force=True, v=True)


@contextmanager
def idle(
    image: str, engine: Engine, volumes: Mapping[str, Mapping[str, str]] | None = None
) -> Iterator[Container]:
    """A container of the image that does nothing, for looking inside."""
    with started(image, ["infinity"], engine, entrypoint=["sleep"], volumes=volumes) as container:
        yield container


def python(container: Container, script: str) -> str:
    """What a Python script prints in the container.

    Raises HfdlcError with its last lines where it fails.
    """
    status, output = container.exec_run(["python", "-c", script], demux=True)
    out, err = output if isinstance(output, tuple) else (b"", b"")
    if status:
        tail = "\n".join(f"    {line}" for line in (err or b"").decode(errors="replace").splitlines()[-8:])
        raise HfdlcError(
            f"a script failed inside the container\n{tail}", where=str(container.attrs["Config"]["Image"])
        )
    return (out or b"").decode()
