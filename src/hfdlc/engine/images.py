"""Images in an engine, their config digests and layers."""

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, cast

from docker.errors import ImageNotFound, NotFound
from docker.models.images import Image
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError
from hfdlc.streams import as_file

if TYPE_CHECKING:
    from docker import DockerClient

# Instructions without a layer, as written in the history by BuildKit and by the classic builder.
WITHOUT_LAYER = re.compile(
    r"(/bin/sh -c #\(nop\) +)?"
    r"(ARG|CMD|ENTRYPOINT|ENV|EXPOSE|HEALTHCHECK|LABEL|MAINTAINER|ONBUILD|SHELL|STOPSIGNAL|USER|VOLUME)\b"
)


@dataclass(frozen=True)
class Layer:
    """One uncompressed layer of an image."""

    digest: str
    size: int  # bytes


def image_of(name: str, engine: Engine) -> Image:
    """An image in the engine; raises HfdlcError if it is not built."""
    try:
        return engine.client.images.get(name)
    except ImageNotFound as error:
        raise not_built(name) from error


def not_built(name: str) -> HfdlcError:
    """The error for an image that the engine does not have."""
    return HfdlcError("the image is not built", location=name, hint=f"hfdlc build {name}")


def config_digest(image: Image, engine: Engine) -> str:
    """The digest of an image's OCI configuration, which is the same whatever the compression of its layers.

    Docker's classic image store uses it as the image's id. With the containerd image store the id is the
    digest of the manifest, and the API does not report the configuration: the image is exported to find it,
    which takes about a second for each GB.
    """
    if not engine.containerd_store:
        return str(image.id)
    with saved(image) as archive:
        for member in archive:
            if member.name == "manifest.json":
                (about,) = json.load(cast("IO[bytes]", archive.extractfile(member)))
                return "sha256:" + str(about["Config"]).removesuffix(".json").rpartition("/")[2]
    raise HfdlcError("the engine exported an image without manifest.json", location=str(image.id))


def every(engine: Engine, **filters: str) -> list[Image]:
    """All images in the engine, listed again where one is removed meanwhile: docker-py asks for each."""
    removed = retry_if_exception_type(ImageNotFound)
    for attempt in Retrying(retry=removed, stop=stop_after_attempt(5), reraise=True):
        with attempt:
            return engine.client.images.list(filters=filters)
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def _in_engine(image: Image) -> Iterator[None]:
    """Raise HfdlcError if the engine does not have the image any more."""
    try:
        yield
    except NotFound as error:
        name = next(iter(image.tags), str(image.id))
        raise HfdlcError(
            "the image was removed from the engine while it was used",
            location=name,
            hint=f"if `docker images` still lists it, docker image rm {name}; then hfdlc build {name}",
        ) from error


@contextmanager
def saved(image: Image) -> Iterator[tarfile.TarFile]:
    """What `docker save` gives of an image, as a stream."""
    stream = as_file(image.save())
    with _in_engine(image), tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20) as archive:
        yield archive


def layers(image: Image) -> tuple[Layer, ...]:
    """An image's layers, lowest first."""
    return pair(_steps(image), image.attrs["RootFS"]["Layers"])


def package_layers(image: Image) -> tuple[Layer, ...]:
    """The layers that the last stage of a cell's Dockerfile copies, in order."""
    found = matched(_steps(image), image.attrs["RootFS"]["Layers"])
    return tuple(layer for step, layer in found if step.startswith("COPY /layer/"))


def _steps(image: Image) -> list[tuple[str, int]]:
    """An image's history, lowest layer first: instructions, and the bytes that they added.

    With the containerd image store an engine forgets the unpacked layers of an image that replaced one with
    the same layers (https://github.com/moby/moby/issues/49784): it unpacks them again for a container.
    """
    with _in_engine(image):
        try:
            history = image.history()
        except NotFound as error:
            if "snapshot" not in str(error):
                raise
            _unpack(image)
            history = image.history()
    return [(str(step["CreatedBy"]), int(str(step["Size"]))) for step in reversed(history)]


def _unpack(image: Image) -> None:
    """Make the engine unpack an image, by a container that is never started."""
    from hfdlc.engine.containers import labels  # which imports this module

    containers = cast("DockerClient", image.client).containers
    containers.create(str(image.id), ["true"], labels=labels()).remove()


def pair(steps: Sequence[tuple[str, int]], digests: Sequence[str]) -> tuple[Layer, ...]:
    """The layers of an image with their sizes; see `matched`."""
    return tuple(layer for _, layer in matched(steps, digests))


def matched(steps: Sequence[tuple[str, int]], digests: Sequence[str]) -> list[tuple[str, Layer]]:
    """Pair each layer with its instruction and size in the history, lowest layer first.

    A history also lists steps without a layer, and does not mark them. Raises HfdlcError if the numbers do
    not match.
    """
    made = [(step, size) for step, size in steps if size or not WITHOUT_LAYER.match(step)]
    while len(made) > len(digests) and (empty := next((one for one in made if not one[1]), None)):
        made.remove(empty)  # a WORKDIR that existed already has no layer
    if len(made) != len(digests):
        raise HfdlcError(f"the image has {len(digests)} layers, but its history lists {len(made)}")
    return [(step, Layer(digest, size)) for (step, size), digest in zip(made, digests, strict=True)]
