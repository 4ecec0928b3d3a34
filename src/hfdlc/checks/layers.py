"""Every byte of an image's layers, also what a later layer hides."""

import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import docker
from docker.models.images import Image

from hfdlc.oci.store import decompressed

PIECE = 1 << 22
HEADER = 257  # where a file's header in an archive has the word `ustar`


@dataclass(frozen=True)
class Found:
    """A needle in a file of a layer."""

    what: str
    file: str
    layer: str

    def __str__(self) -> str:
        return f"{self.what} in /{self.file} of {self.layer[:19]}"


def search(
    client: docker.DockerClient, image: Image, needles: Mapping[bytes, str], folder: Path
) -> list[Found]:
    """What of the needles is in which layer of an image; `folder` has room for the image."""
    found = []
    with _blobs(client, image, folder) as blobs:
        for name, blob in blobs:
            with blob:
                found += [
                    Found(needles[needle], file, name) for needle, file in _in(decompressed(blob), needles)
                ]
    return found


def _in(blob: IO[bytes], needles: Mapping[bytes, str]) -> Iterator[tuple[bytes, str]]:
    """Each needle that a layer has, once, with the file that has it."""
    open_, before, file = dict(needles), b"", ""
    overlap = max((len(needle) for needle in needles), default=0)
    while piece := blob.read(PIECE):
        text = before + piece
        for needle in [needle for needle in open_ if needle in text]:
            del open_[needle]
            yield needle, _file(text[: text.find(needle)]) or file
        file = _file(text) or file
        before = text[-overlap:] if overlap else b""


def _file(text: bytes) -> str:
    """The name in the last header of a piece of an archive."""
    start = text.rfind(b"ustar") - HEADER
    return text[start : start + 100].rstrip(b"\0").decode(errors="replace") if start >= 0 else ""


@contextmanager
def _blobs(
    client: docker.DockerClient, image: Image, folder: Path
) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """The layers, from the engine's store where this machine can read it, else from an archive.

    An engine gives out an archive at 70 MB/s, and has it on disk.
    """
    store = Path(
        client.info()["DockerRootDir"], "containerd/daemon/io.containerd.content.v1.content/blobs/sha256"
    )
    if (layers := _stored(store, str(image.id))) is not None:
        yield ((layer, (store / layer.partition(":")[2]).open("rb")) for layer in layers)
        return
    with TemporaryFile(dir=folder) as archive:
        archive.writelines(image.save())
        archive.seek(0)
        with tarfile.open(fileobj=archive) as outer:
            members = ((member, outer.extractfile(member)) for member in outer if member.isfile())
            yield ((member.name, content) for member, content in members if content)


def _stored(store: Path, image: str) -> list[str] | None:
    """The layers and the configuration of an image, where the engine's store has them all in reach."""
    try:
        manifest = json.loads((store / image.partition(":")[2]).read_text())
        blobs = [blob["digest"] for blob in chain(manifest["layers"], [manifest["config"]])]
    except (OSError, ValueError, KeyError):
        return None
    return blobs if all((store / blob.partition(":")[2]).is_file() for blob in blobs) else None
