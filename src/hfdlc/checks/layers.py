"""What lies in an image's layers, file by file, also where a later layer hides it."""

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from hfdlc import facts
from hfdlc.engine import Engine

PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
# What the last stage of our Dockerfiles adds, by the words of the history.
OURS = re.compile(r"COPY /layer/ /|WORKDIR ")
PIECE = 1 << 24


@dataclass(frozen=True)
class Found:
    """A needle in a file of a layer."""

    file: str
    needle: bytes


def search(image: str, engine: Engine, needles: tuple[bytes, ...], folder: Path) -> Iterator[Found]:
    """Search the layers above the base, by what they hold, for pieces of text."""
    if not needles:
        return
    pattern = re.compile(b"|".join(re.escape(needle) for needle in needles))
    longest = max(map(len, needles))
    for member, content in files(image, engine, folder):
        before = b""
        while piece := content.read(PIECE):
            for match in pattern.finditer(before + piece):
                yield Found(member, match.group())
            before = piece[-longest:]


def files(image: str, engine: Engine, folder: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Each file of each layer above the base, with its content."""
    built = facts.image_of(image, engine)
    with TemporaryFile(dir=folder) as archive:
        for chunk in built.save():
            archive.write(chunk)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as outer:
            for name in _layers(outer)[-_ours(built.history()) :]:
                layer = outer.extractfile(name)
                assert layer
                with tarfile.open(fileobj=layer) as inner:
                    for member in inner:
                        if member.isfile() and (content := inner.extractfile(member)):
                            yield member.name, content


def _layers(archive: tarfile.TarFile) -> list[str]:
    manifest = archive.extractfile("manifest.json")
    assert manifest
    layers: list[str] = json.load(manifest)[0]["Layers"]
    return layers


def _ours(history: list[dict[str, str]]) -> int:
    """How many of the uppermost layers are of our Dockerfile."""
    return sum(bool(OURS.search(step["CreatedBy"])) for step in history)


def certificates(bundle: Path) -> frozenset[bytes]:
    """The certificates of a bundle, each as it is written there."""
    return frozenset(PEM.findall(bundle.read_bytes())) if bundle.is_file() else frozenset()
