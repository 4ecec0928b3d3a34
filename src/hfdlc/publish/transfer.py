"""Comparing targets with what is to be published, and copying images and their attachments."""

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, Protocol

from hfdlc.errors import HfdlcError
from hfdlc.oci.image import Manifest
from hfdlc.oci.registry import Conflict, Registry
from hfdlc.publish import signing
from hfdlc.publish.signing import SUFFIXES, Attachment, Attachments
from hfdlc.publish.targets import Target
from hfdlc.streams import as_file

AT_ONCE = 3  # blobs that are sent at the same time
COMPARED_AT_ONCE = 8  # tags


class Source(Protocol):
    """Where the bytes of an image come from: `oci.image.Image`, or `FromRegistry`."""

    @property
    def manifest(self) -> Manifest: ...

    def open(self, digest: str, offset: int) -> IO[bytes]:
        """One of its blobs from an offset on."""


@dataclass(frozen=True)
class FromRegistry:
    """An image in a registry; its blobs pass through this machine, and are not stored here."""

    registry: Registry
    repository: str
    manifest: Manifest

    def open(self, digest: str, offset: int) -> IO[bytes]:
        """One of its blobs from an offset on."""
        return as_file(self.registry.blob(self.repository, digest, offset))


@dataclass(frozen=True)
class Wanted:
    """What a tag is to name."""

    config_digest: str | None  # the identity of the image
    digest: str | None = None  # of the manifest, if no layer must be compressed to know it


@dataclass(frozen=True)
class TagStatus:
    """One cell's tag at one target."""

    target: Target
    cell: str
    state: str  # "missing"; "there": this image, whatever its compression; "different"
    exists: bool  # the repository
    here: str | None  # the manifest digest that would be published, if it is known
    there: str | None  # the manifest digest at the target
    others: tuple[str, ...]  # repositories that may have some of its layers

    @property
    def repository(self) -> str:
        return self.cell.partition(":")[0]

    @property
    def tag(self) -> str:
        return self.cell.partition(":")[2]

    def json(self) -> dict[str, Any]:
        """One entry of `hfdlc publish --json`."""
        return {
            "place": self.target.name,
            "cell": self.cell,
            "state": self.state,
            "here": self.here,
            "there": self.there,
        }


def compare(
    targets: Sequence[Target], wanted: Mapping[str, Wanted], repositories: Sequence[str]
) -> list[TagStatus]:
    """The status of every cell's tag at every target; `repositories` are all those of the matrix."""
    pairs = [(target, repository) for target in targets for repository in repositories]
    with ThreadPoolExecutor(COMPARED_AT_ONCE) as pool:
        list(pool.map(lambda pair: pair[0].has(pair[1]), pairs))  # remembered by the target

        def one(pair: tuple[Target, str]) -> TagStatus:
            target, cell = pair
            repository, _, tag = cell.partition(":")
            exists = target.has(repository)
            there = target.registry.head(repository, tag) if exists else None
            state = _state(target.registry, repository, there, wanted[cell])
            return TagStatus(target, cell, state, exists, wanted[cell].digest, there, tuple(repositories))

        return list(pool.map(one, [(target, cell) for cell in wanted for target in targets]))


def _state(registry: Registry, repository: str, there: str | None, wanted: Wanted) -> str:
    if not there:
        return "missing"
    if there == wanted.digest:
        return "there"
    same = wanted.config_digest and registry.manifest(repository, there).config_digest == wanted.config_digest
    return "there" if same else "different"


@dataclass
class Moved:
    """Bytes of blobs that publishing an image took."""

    sent: int = 0
    mounted: int = 0
    there: int = 0

    def __str__(self) -> str:
        numbers = (self.sent / 1e6, self.mounted / 1e6, self.there / 1e6)
        return "{:.1f} MB sent, {:.1f} MB mounted, {:.1f} MB already there".format(*numbers)


def copy_blobs(source: Source, target: Target, repository: str, others: Sequence[str]) -> Moved:
    """Send an image, its manifest by digest only: no tag names it yet.

    `others` are repositories of the same registry that may have its blobs already.
    """
    registry, manifest, moved = target.registry, source.manifest, Moved()
    if registry.head(repository, manifest.digest):
        return moved
    sizes = {blob["digest"]: int(blob["size"]) for blob in manifest.blobs}

    def one(digest: str) -> None:
        size = sizes[digest]
        if registry.has(repository, digest):
            moved.there += size
            return
        mounted, began = _mount(target, repository, digest, others)
        if mounted:
            moved.mounted += size
        else:
            registry.upload(repository, digest, size, lambda offset: source.open(digest, offset), began)
            moved.sent += size

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, sizes))
    registry.put(repository, manifest.digest, manifest)
    return moved


def _mount(target: Target, repository: str, digest: str, others: Sequence[str]) -> tuple[bool, str | None]:
    """Mount a blob from one of the other repositories; the result is that of `Registry.mount`."""
    for other in others:
        if other != repository and target.has(other) and target.registry.has(other, digest):
            mounted, began = target.registry.mount(repository, digest, other)
            if mounted or began:
                return mounted, began
    return False, None


def set_tag(target: Target, repository: str, tag: str, manifest: Manifest) -> None:
    """Let a tag name a manifest that the registry has.

    Raises Conflict if it names another image: another run published it since the tags were compared.
    """
    there = target.registry.head(repository, tag)
    if there and there != manifest.digest:
        raise Conflict(
            f"was published as {there} meanwhile: a tag never moves",
            location=f"{target.name}: {repository}:{tag}",
            hint="run this again to compare it with that image",
        )
    target.registry.put(repository, tag, manifest)


def attach(
    registry: Registry, repository: str, digest: str, attachments: Attachments
) -> dict[str, Attachment]:
    """Send the attachments of an image, and give those that the registry has in the end.

    What another run attached to the same image stays: it is about the same digest.
    """
    found = {}
    for suffix, each in attachments.items():
        reference = signing.tag(digest, suffix)
        if registry.head(repository, reference) is None:
            for blob, content in each.blobs.items():
                if not registry.has(repository, blob):
                    registry.upload(repository, blob, len(content), partial(_from, content))
            try:
                registry.put(repository, reference, each.manifest)
                found[suffix] = each
                continue
            except Conflict:
                pass  # a run at the same time was faster
        found[suffix] = _attachment(registry, repository, reference)
    return found


def _from(content: bytes, offset: int) -> IO[bytes]:
    return io.BytesIO(content[offset:])


def attachments(registry: Registry, repository: str, digest: str) -> dict[str, Attachment]:
    """The signatures and attestations of an image, by suffix; those that are missing are left out."""
    return {
        suffix: _attachment(registry, repository, signing.tag(digest, suffix))
        for suffix in SUFFIXES
        if registry.head(repository, signing.tag(digest, suffix))
    }


def _attachment(registry: Registry, repository: str, reference: str) -> Attachment:
    manifest = registry.manifest(repository, reference)
    try:
        blobs = {blob["digest"]: registry.read(repository, blob["digest"]) for blob in manifest.blobs}
    except KeyError as error:
        where = f"{registry.address}/{repository}:{reference}"
        raise HfdlcError(f"is not a manifest of signatures: it lacks {error}", location=where) from error
    return Attachment(manifest, blobs)
