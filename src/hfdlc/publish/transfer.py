"""Bringing an image to a registry: what is there is left, what another repository has is mounted."""

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, Protocol

from hfdlc.oci.image import Manifest
from hfdlc.oci.registry import Registry
from hfdlc.publish import referrers
from hfdlc.publish.pack import Packer
from hfdlc.publish.preflight import Candidate
from hfdlc.publish.referrers import Proof
from hfdlc.publish.targets import Place

AT_ONCE = 3  # blobs on their way


class Source(Protocol):
    """Where an image's bytes come from."""

    @property
    def manifest(self) -> Manifest:
        """As it is published."""

    def open(self, digest: str, offset: int) -> IO[bytes]:
        """One of its blobs from an offset on."""


@dataclass(frozen=True)
class FromEngine:
    """An image of this machine."""

    candidate: Candidate
    packer: Packer

    @property
    def manifest(self) -> Manifest:
        """As it is published."""
        return self.packer.pack(self.candidate).manifest

    def open(self, digest: str, offset: int) -> IO[bytes]:
        """One of its blobs from an offset on."""
        return self.packer.open(self.candidate, digest, offset)


@dataclass(frozen=True)
class FromRegistry:
    """An image that is published elsewhere; none of its bytes lie on this machine."""

    registry: Registry
    repository: str
    manifest: Manifest

    def open(self, digest: str, offset: int) -> IO[bytes]:
        """One of its blobs from an offset on."""
        return io.BufferedReader(_Stream(self.registry, self.repository, digest, offset), 1 << 20)


class _Stream(io.RawIOBase):
    """A registry's blob as a file."""

    def __init__(self, registry: Registry, repository: str, digest: str, offset: int) -> None:
        self._pieces = registry.blob(repository, digest, offset)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            try:
                self._rest = next(self._pieces)
            except StopIteration:
                return 0
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)


@dataclass
class Moved:
    """What it took to bring images to a place, in bytes of blobs."""

    sent: int = 0
    mounted: int = 0
    there: int = 0
    blobs: dict[str, int] = field(default_factory=dict)  # sent: digest -> bytes


def bring(source: Source, place: Place, repository: str, others: Sequence[str], moved: Moved) -> None:
    """Send an image, its manifest by digest alone: no tag names it yet.

    `others` are repositories of the same registry that may have its blobs already.
    """
    registry, manifest = place.registry, source.manifest
    if registry.head(repository, manifest.digest):
        return
    sizes = {blob["digest"]: int(blob["size"]) for blob in manifest.blobs}

    def one(digest: str) -> None:
        size = sizes[digest]
        if registry.has(repository, digest):
            moved.there += size
        elif _mounted(place, repository, digest, others):
            moved.mounted += size
        else:
            registry.upload(repository, digest, size, lambda offset: source.open(digest, offset))
            moved.sent += size
            moved.blobs[digest] = size

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, sizes))
    registry.put(repository, manifest.digest, manifest)


def _mounted(place: Place, repository: str, digest: str, others: Sequence[str]) -> bool:
    """Whether one of the other repositories had the blob, and the registry took it over."""
    registry = place.registry
    return any(
        registry.has(other, digest) and registry.mount(repository, digest, other)
        for other in others
        if other != repository and place.has(other)
    )


def finish(place: Place, repository: str, tag: str, manifest: Manifest, proofs: Mapping[str, Proof]) -> None:
    """Attach the proofs, then let the tag appear: all that it stands for is there."""
    referrers.attach(place.registry, repository, manifest.digest, proofs)
    place.registry.put(repository, tag, manifest)
