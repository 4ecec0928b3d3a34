"""Manifests, image configurations and OCI archives, made from the layers of a store.

Specifications: https://github.com/opencontainers/image-spec/tree/v1.1.0 and
https://github.com/distribution/distribution/blob/v2.8.3/docs/spec/manifest-v2-2.md
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any

from hfdlc.oci.store import GZIP, PIECE, ZSTD, LayerStore, StoredLayer
from hfdlc.state import write_whole

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
# The media types of Docker's schema 2, for registries and services that take nothing newer.
DOCKER = {
    OCI_MANIFEST: DOCKER_MANIFEST,
    CONFIG: "application/vnd.docker.container.image.v1+json",
    GZIP: "application/vnd.docker.image.rootfs.diff.tar.gzip",
}
OCI = {docker: oci for oci, docker in DOCKER.items()}
AT_ONCE = 2  # layers that are compressed at the same time


def digest_of(content: bytes) -> str:
    """The digest of content, as registries write it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """The bytes of a manifest, which decide its digest."""

    content: bytes
    media_type: str

    @property
    def digest(self) -> str:
        return digest_of(self.content)

    @property
    def parsed(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.content)
        return found

    @property
    def blobs(self) -> list[dict[str, Any]]:
        """The descriptors of the configuration and the layers."""
        return [self.parsed["config"], *self.parsed["layers"]]

    @property
    def config_digest(self) -> str | None:
        """The identity of the image; None if this is not the manifest of one image."""
        found = self.parsed.get("config", {}).get("digest")
        return str(found) if found else None


@dataclass(frozen=True)
class Image:
    """An image whose blobs are in a layer store.

    The configuration is the same whatever the compression of the layers; only the manifest differs.
    """

    config: bytes
    layers: tuple[StoredLayer, ...]
    store: LayerStore
    docker: bool = False  # media types of Docker's schema 2

    @property
    def config_digest(self) -> str:
        """The identity of the image."""
        return digest_of(self.config)

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration, parsed."""
        found: dict[str, Any] = json.loads(self.config)
        return found

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest, with one encoding for the same image on every machine."""
        names = DOCKER if self.docker else {}
        media_type = names.get(OCI_MANIFEST, OCI_MANIFEST)
        content = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": _descriptor(names.get(CONFIG, CONFIG), self.config_digest, len(self.config)),
            "layers": [
                _descriptor(names.get(each.media_type, each.media_type), each.digest, each.size)
                for each in self.layers
            ],
        }
        return Manifest(_json(content), media_type)

    def open(self, digest: str, offset: int) -> IO[bytes]:
        """One of the blobs from an offset on; a layer that is read from its start is verified at its end."""
        if digest == self.config_digest:
            return io.BytesIO(self.config[offset:])
        return self.store.open_at(digest, offset) if offset else self.store.open(digest)

    def as_docker(self, root: Path) -> "Image":
        """The image in Docker's schema 2, with gzip layers; `root` is the repository's folder.

        Layers are compressed once and kept in the store.
        """
        with ThreadPoolExecutor(AT_ONCE) as pool:
            packed = pool.map(lambda layer: self.store.compressed(layer, GZIP, root), self.layers)
            return replace(self, layers=tuple(packed), docker=True)

    def known_as_docker(self) -> "Image | None":
        """What `as_docker` gives, if no layer has to be compressed for it."""
        layers = [self.store.known(layer, GZIP) for layer in self.layers]
        found = tuple(layer for layer in layers if layer)
        return replace(self, layers=found, docker=True) if len(found) == len(layers) else None

    def save(self, *names: str) -> None:
        """Store configuration and manifest, and record them under names and under the config digest."""
        self.store.put(self.config)
        self.store.put(self.manifest.content)
        for name in (*names, self.config_digest):
            record = self.store.root / "images" / f"{name.partition(':')[2] or name}.json"
            write_whole(record, json.dumps({"manifest": self.manifest.digest}))

    def verify(self) -> None:
        """Raise Damaged if a layer's blob does not match its digest."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self.store.verify, dict.fromkeys(layer.digest for layer in self.layers)))


def load(store: LayerStore, name: str) -> Image | None:
    """The image that was saved under a name or config digest, or has this manifest digest.

    None if there is none, or if one of its blobs is missing or has another size.
    """
    record = store.root / "images" / f"{name.partition(':')[2] or name}.json"
    try:
        digest = json.loads(record.read_text())["manifest"] if record.is_file() else name
        content = store.path(digest).read_bytes()
        manifest = json.loads(content)
        config = store.path(manifest["config"]["digest"]).read_bytes()
        pairs = zip(json.loads(config)["rootfs"]["diff_ids"], manifest["layers"], strict=True)
        layers = tuple(_layer(diff_id, each) for diff_id, each in pairs)
        there = [store.path(layer.digest).stat().st_size for layer in layers]
        for blob in (digest, manifest["config"]["digest"], *(layer.digest for layer in layers)):
            os.utime(store.path(blob))  # `hfdlc clean` keeps what was used last
    except (OSError, ValueError, KeyError, TypeError):
        return None
    complete = there == [layer.size for layer in layers]
    intact = (digest_of(content), digest_of(config)) == (digest, manifest["config"]["digest"])
    return Image(config, layers, store) if complete and intact else None


def config_digest_of(store: LayerStore, manifest_digest: str) -> str | None:
    """The config digest in a manifest that an image was saved with; None if the store does not have it."""
    try:
        return Manifest(store.path(manifest_digest).read_bytes(), "").config_digest
    except (OSError, ValueError):
        return None


def compose(
    shell: str, package_layers: Sequence[StoredLayer], store: LayerStore, root: Path, *, created: int
) -> Image:
    """The image with the manifest digest `shell`, with layers on top.

    `created`: seconds since the epoch, for the history. `root` is the repository's folder.
    """
    manifest = store.read_json(shell)
    config = store.read_json(manifest["config"]["digest"])
    pairs = zip(config["rootfs"]["diff_ids"], manifest["layers"], strict=True)
    base_layers = [_layer(diff_id, each) for diff_id, each in pairs]
    layers = tuple(store.compressed(layer, ZSTD, root) for layer in (*base_layers, *package_layers))
    moment = datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z")
    config["rootfs"]["diff_ids"] = [layer.diff_id for layer in layers]
    config["history"] += [{"created": moment, "created_by": "COPY /layer/ / # hfdlc"}] * len(package_layers)
    return Image(_json(config), layers, store)


def archive(images: Mapping[str, Image], without: Container[str] = ()) -> Iterator[bytes]:
    """An archive of images by their names, in pieces; a layer that several images share is in it once.

    It is an OCI archive and a Docker archive: Docker's classic image store reads only `manifest.json`.
    `without`: digests of blobs that are left out.
    """
    about = [
        {
            "Config": _path(image.config_digest),
            "RepoTags": [name],
            "Layers": [_path(layer.digest) for layer in image.layers],
        }
        for name, image in images.items()
    ]
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            _descriptor(image.manifest.media_type, image.manifest.digest, len(image.manifest.content))
            | {"annotations": {"io.containerd.image.name": f"docker.io/library/{name}"}}
            for name, image in images.items()
        ],
    }
    yield from _whole("oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    yield from _whole("index.json", _json(index))
    yield from _whole("manifest.json", json.dumps(about).encode())
    seen: set[str] = set()
    for image in images.values():
        yield from _whole(_path(image.manifest.digest), image.manifest.content)
        for blob in image.manifest.blobs:
            if blob["digest"] not in seen and blob["digest"] not in without:
                seen.add(blob["digest"])
                with image.open(blob["digest"], 0) as content:
                    pieces = iter(partial(content.read, PIECE), b"")
                    yield from _member(_path(blob["digest"]), pieces, blob["size"])
    yield bytes(2 * tarfile.BLOCKSIZE)


def _layer(diff_id: str, descriptor: Mapping[str, Any]) -> StoredLayer:
    media_type = OCI.get(descriptor["mediaType"], descriptor["mediaType"])
    return StoredLayer(diff_id, descriptor["digest"], descriptor["size"], media_type)


def _whole(name: str, content: bytes) -> Iterator[bytes]:
    return _member(name, [content], len(content))


def _member(name: str, pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size = size
    yield info.tobuf(tarfile.USTAR_FORMAT)
    yield from pieces
    yield bytes(-size % tarfile.BLOCKSIZE)


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
