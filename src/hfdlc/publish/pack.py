"""An image of the engine as a registry takes it: layers compressed once, below a manifest."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO, Any

from hfdlc.engine import detect
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError
from hfdlc.oci.image import DOCKER_MANIFEST, OCI_MANIFEST, Manifest, digest_of
from hfdlc.oci.store import plain
from hfdlc.process import say
from hfdlc.publish.preflight import Candidate
from hfdlc.state import State, write_whole

LEVEL = 6  # of gzip: a registry and every client take it, zstd they do not all
FORM = "1"  # raised when the same image is packed to other bytes
DOCKER = {
    "config": "application/vnd.docker.container.image.v1+json",
    "layer": "application/vnd.docker.image.rootfs.diff.tar.gzip",
}
OCI = {
    "config": "application/vnd.oci.image.config.v1+json",
    "layer": "application/vnd.oci.image.layer.v1.tar+gzip",
}


@dataclass(frozen=True)
class Packed:
    """An image in the form that is published."""

    manifest: Manifest
    config: bytes


class Packer:
    """Packs images; what it has packed it remembers, the layers themselves only until `forget`."""

    def __init__(self, engine: Engine, state: State, *, oci: bool = False) -> None:
        self._engine, self._oci = engine, oci
        self._memory = state.root / "published" / FORM
        self._blobs = state.root / "tmp" / "publish"
        self._one_reads = Lock()

    def pack(self, candidate: Candidate) -> Packed:
        """The image's manifest and configuration; its layers are read only if they are not known yet."""
        known = self.known(candidate)
        if not known:
            self._read(candidate)
            known = self.known(candidate)
        if not known:
            raise HfdlcError("the engine gave other layers than it names", where=candidate.cell.id)
        return known

    def open(self, candidate: Candidate, digest: str, offset: int) -> IO[bytes]:
        """A packed layer or the configuration from an offset on; read anew where it was forgotten."""
        config = self.pack(candidate).config
        if digest == digest_of(config):
            return io.BytesIO(config[offset:])
        file = self._blobs / _name(digest)
        with self._one_reads:
            if not file.is_file():
                self._read(candidate)
        content = file.open("rb")
        content.seek(offset)
        return content

    def forget(self) -> None:
        """Remove the layers: they are at the registry."""
        shutil.rmtree(self._blobs, ignore_errors=True)

    def known(self, candidate: Candidate) -> Packed | None:
        """The same, if nothing has to be read for it."""
        try:
            config = (self._memory / "configs" / _name(candidate.image)).read_bytes()
            layers = [
                json.loads((self._memory / "layers" / _name(layer)).read_text()) for layer in candidate.layers
            ]
        except (OSError, ValueError):
            return None
        kinds, media = (OCI, OCI_MANIFEST) if self._oci else (DOCKER, DOCKER_MANIFEST)
        content = {
            "schemaVersion": 2,
            "mediaType": media,
            "config": {"mediaType": kinds["config"], "size": len(config), "digest": digest_of(config)},
            "layers": [{"mediaType": kinds["layer"], **layer} for layer in layers],
        }
        return Packed(Manifest(json.dumps(content, separators=(",", ":")).encode(), media), config)

    def _read(self, candidate: Candidate) -> None:
        """Save an image out of the engine, and compress the layers whose blobs are not here."""
        self._blobs.mkdir(parents=True, exist_ok=True)
        say(f"packing {candidate.cell.id}")
        saved = self._blobs / "image.tar"
        try:
            self._save(candidate, saved)
            self._compress(candidate, saved)
        finally:
            saved.unlink(missing_ok=True)

    def _save(self, candidate: Candidate, target: Path) -> None:
        with closing(detect.client(self._engine)) as client, target.open("wb") as file:
            for piece in client.images.get(candidate.cell.id).save(chunk_size=8 << 20, named=True):
                file.write(piece)

    def _compress(self, candidate: Candidate, saved: Path) -> None:
        with tarfile.open(saved) as archive:
            (about,) = json.loads(_member(archive, "manifest.json").read())
            config = _member(archive, about["Config"]).read()
        if tuple(json.loads(config)["rootfs"]["diff_ids"]) != candidate.layers:
            raise HfdlcError("the image changed while it was read", where=candidate.cell.id)

        def one(pair: tuple[str, str]) -> None:
            layer, path = pair
            with tarfile.open(saved) as archive:  # each thread reads the file by itself
                told = self._blob(_member(archive, path), layer)
            write_whole(self._memory / "layers" / _name(layer), json.dumps(told))

        pairs = dict(zip(candidate.layers, about["LayerStore"], strict=True))
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one, pairs.items()))
        write_whole(self._memory / "configs" / _name(candidate.image), config.decode())

    def _blob(self, content: IO[bytes], layer: str) -> dict[str, Any]:
        """Compress one layer; the same bytes each time."""
        known = self._memory / "layers" / _name(layer)
        if known.is_file():
            told: dict[str, Any] = json.loads(known.read_text())
            if (self._blobs / _name(told["digest"])).is_file():
                return told
        part = self._blobs / f"{_name(layer)}.part"
        seen = hashlib.sha256()
        with part.open("wb") as raw, gzip.GzipFile("", "wb", LEVEL, raw, mtime=0) as packed:
            for piece in _pieces(plain(content)):
                seen.update(piece)
                packed.write(piece)
        if f"sha256:{seen.hexdigest()}" != layer:
            raise HfdlcError(f"the engine gave another layer than {layer}")
        with part.open("rb") as made:
            digest = "sha256:" + hashlib.file_digest(made, "sha256").hexdigest()
        part.rename(self._blobs / _name(digest))
        return {"size": (self._blobs / _name(digest)).stat().st_size, "digest": digest}


def _name(digest: str) -> str:
    return digest.replace(":", "-")


def _member(archive: tarfile.TarFile, path: str) -> IO[bytes]:
    found = archive.extractfile(path)
    if not found:
        raise HfdlcError(f"the engine's archive lacks {path}")
    return found


def _pieces(content: IO[bytes]) -> Iterator[bytes]:
    while piece := content.read(4 << 20):
        yield piece
