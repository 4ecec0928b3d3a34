"""Search all bytes of an image's layers, including files that a later layer hides."""

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
HEADER = 257  # offset of `ustar` in a file's header


@dataclass(frozen=True)
class Found:
    """A forbidden string in a file of a layer."""

    what: str
    file: str
    layer: str

    def __str__(self) -> str:
        return f"{self.what} in /{self.file} of {self.layer[:19]}"


def search(
    client: docker.DockerClient, image: Image, forbidden: Mapping[bytes, str], folder: Path
) -> list[Found]:
    """The forbidden strings in the layers of an image; `folder` needs space for the image."""
    found = []
    with _blobs(client, image, folder) as blobs:
        for name, blob in blobs:
            with blob:
                found += [
                    Found(forbidden[text], file, name) for text, file in _in(decompressed(blob), forbidden)
                ]
    return found


def _in(blob: IO[bytes], forbidden: Mapping[bytes, str]) -> Iterator[tuple[bytes, str]]:
    """Each forbidden string in a layer, once, with the file that contains it."""
    missing, before, file = set(forbidden), b"", ""
    overlap = max((len(each) for each in forbidden), default=0)
    while piece := blob.read(PIECE):
        text = before + piece
        for each in [each for each in forbidden if each in missing and each in text]:
            missing.remove(each)
            yield each, _file(text[: text.find(each)]) or file
        file = _file(text) or file
        before = text[-overlap:] if overlap else b""


def _file(text: bytes) -> str:
    """The name in the last header of a chunk of an archive."""
    start = text.rfind(b"ustar") - HEADER
    return text[start : start + 100].rstrip(b"\0").decode(errors="replace") if start >= 0 else ""


@contextmanager
def _blobs(
    client: docker.DockerClient, image: Image, folder: Path
) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """The layers, from the engine's store if this machine can read it, else from an archive.

    `docker save` writes 70 MB/s, and needs space on the disk.
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
    """The layers and the configuration of an image, if all are readable in the engine's store."""
    try:
        manifest = json.loads((store / image.partition(":")[2]).read_text())
        blobs = [blob["digest"] for blob in chain(manifest["layers"], [manifest["config"]])]
    except (OSError, ValueError, KeyError):
        return None
    return blobs if all((store / blob.partition(":")[2]).is_file() for blob in blobs) else None
