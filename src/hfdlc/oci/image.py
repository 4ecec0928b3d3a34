"""Manifests, image configurations and OCI archives, made from the layers of a store.

Specification: https://github.com/opencontainers/image-spec/tree/v1.1.0
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

from hfdlc.oci.store import GZIP, PIECE, LayerStore, StoredLayer

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
# The same in Docker's words, for registries and services that take nothing newer.
DOCKER = {
    OCI_MANIFEST: DOCKER_MANIFEST,
    CONFIG: "application/vnd.docker.container.image.v1+json",
    GZIP: "application/vnd.docker.image.rootfs.diff.tar.gzip",
}


def digest_of(content: bytes) -> str:
    """Its address."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """A manifest's very bytes."""

    content: bytes
    media_type: str

    @property
    def digest(self) -> str:
        """Its address."""
        return digest_of(self.content)

    @property
    def parsed(self) -> dict[str, Any]:
        """What it says."""
        found: dict[str, Any] = json.loads(self.content)
        return found

    @property
    def blobs(self) -> list[dict[str, Any]]:
        """The descriptors of what it names: the configuration and the layers."""
        return [self.parsed["config"], *self.parsed["layers"]]


@dataclass(frozen=True)
class Image:
    """A cell's image, whose blobs lie on this machine."""

    manifest: Manifest
    config: bytes
    layers: LayerStore

    @property
    def settings(self) -> dict[str, Any]:
        """Its configuration."""
        found: dict[str, Any] = json.loads(self.config)
        return found

    def open(self, digest: str, offset: int) -> IO[bytes]:
        """One of its blobs from an offset on."""
        if digest == digest_of(self.config):
            return io.BytesIO(self.config[offset:])
        return self.layers.reopen(digest, offset) if offset else self.layers.open(digest)


def compose(
    shell: str, above: Sequence[StoredLayer], layers: LayerStore, media_type: str, root: Path, *, created: int
) -> Image:
    """The image with the manifest digest `shell`, with the layers `above` on top.

    `media_type` of all its layers: ZSTD, or GZIP for Docker's schema 2. `created`: seconds.
    """
    made = layers.read(shell)
    config = layers.read(made["config"]["digest"])
    pairs = zip(config["rootfs"]["diff_ids"], made["layers"], strict=True)
    below = [StoredLayer(diff_id, each["digest"], each["size"], each["mediaType"]) for diff_id, each in pairs]
    laid = [layers.packed(layer, media_type, root) for layer in (*below, *above)]
    moment = datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z")
    config["rootfs"]["diff_ids"] = [layer.diff_id for layer in laid]
    config["history"] += [{"created": moment, "created_by": "COPY /layer/ / # hfdlc"}] * len(above)
    content = _text(config)
    names = DOCKER if media_type == GZIP else {}
    manifest = {
        "schemaVersion": 2,
        "mediaType": names.get(OCI_MANIFEST, OCI_MANIFEST),
        "config": _descriptor(names.get(CONFIG, CONFIG), digest_of(content), len(content)),
        "layers": [
            _descriptor(names.get(each.media_type, each.media_type), each.digest, each.size) for each in laid
        ],
    }
    return Image(Manifest(_text(manifest), str(manifest["mediaType"])), content, layers)


def archive(images: Mapping[str, Image]) -> Iterator[bytes]:
    """An OCI archive of images by their names, piece by piece."""
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            _descriptor(image.manifest.media_type, image.manifest.digest, len(image.manifest.content))
            | {"annotations": {"io.containerd.image.name": f"docker.io/library/{name}"}}
            for name, image in images.items()
        ],
    }
    yield from _whole("oci-layout", _text({"imageLayoutVersion": "1.0.0"}))
    yield from _whole("index.json", _text(index))
    seen: set[str] = set()
    for image in images.values():
        yield from _whole(_place(image.manifest.digest), image.manifest.content)
        for blob in image.manifest.blobs:
            if blob["digest"] not in seen:
                seen.add(blob["digest"])
                with image.open(blob["digest"], 0) as content:
                    pieces = iter(partial(content.read, PIECE), b"")
                    yield from _member(_place(blob["digest"]), pieces, blob["size"])
    yield bytes(2 * tarfile.BLOCKSIZE)


def _whole(name: str, content: bytes) -> Iterator[bytes]:
    return _member(name, [content], len(content))


def _member(name: str, pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size = size
    yield info.tobuf(tarfile.USTAR_FORMAT)
    yield from pieces
    yield bytes(-size % tarfile.BLOCKSIZE)


def _place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _text(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
