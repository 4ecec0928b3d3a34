"""The layer store: compressed layers, found by cache key, by the digest of their archive or by their own.

It is an OCI image layout in the state folder, into which BuildKit itself writes base images. Several
processes may use it at once. A blob counts only if its content matches its digest: one that does not is set
aside.
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from backports.zstd import ZstdFile
from zlib_ng.gzip_ng import GzipNGFile

from hfdlc.errors import HfdlcError
from hfdlc.process import run, say
from hfdlc.state import State, write_whole

FOLDER = "layers"  # below the state folder
FORM = "1"  # raised when layers are recorded in another way
PIECE = 1 << 20  # bytes
# zlib-ng writes the same bytes on every x86-64 processor; another version may not, so it is pinned. The
# output of igzip depends on SSE4.2 and, at level 3, on AVX2. Measured on the PyTorch CPU layer (467 MB): zlib
# 6 takes 12.0 s for 141 MB, zlib-ng 4 takes 3.9 s for 147 MB, igzip 2 takes 0.9 s for 161 MB.
GZIP_LEVEL = 4
# https://github.com/opencontainers/image-spec/blob/v1.1.0/layer.md
PLAIN = "application/vnd.oci.image.layer.v1.tar"
ZSTD, GZIP = f"{PLAIN}+zstd", f"{PLAIN}+gzip"
# How a layer is found by its archive. Another compressor or level has another name: its bytes differ.
SUFFIXES = {PLAIN: "tar", ZSTD: "zstd", GZIP: f"gzip-ng{GZIP_LEVEL}"}


class Damaged(HfdlcError):
    """A blob that is missing, or whose content does not match its digest; that one is set aside."""


@dataclass(frozen=True)
class StoredLayer:
    """A layer with one compression."""

    diff_id: str  # the digest of the uncompressed archive
    digest: str  # of the blob
    size: int  # bytes of the blob
    media_type: str


class LayerStore:
    """The layers of one machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._keys = root / "known" / FORM

    @classmethod
    def of(cls, state: State) -> "LayerStore":
        """The store that all runs with this state folder share."""
        return cls(state.folder(FOLDER))

    def path(self, digest: str) -> Path:
        """Where a blob is or would be."""
        return self.root / "blobs" / digest.replace(":", "/")

    def open(self, digest: str) -> IO[bytes]:
        """A blob; reading to its end raises Damaged if the content does not match the digest."""
        try:
            return io.BufferedReader(_VerifyingReader(self.path(digest), digest), PIECE)
        except FileNotFoundError as error:
            raise Damaged(
                "is not in the layer store any more",
                location=str(self.path(digest)),
                hint="run this again: it is made again",
            ) from error

    def open_at(self, digest: str, offset: int) -> IO[bytes]:
        """A blob from an offset on; its content is not verified."""
        file = self.path(digest).open("rb")
        file.seek(offset)
        return file

    def verify(self, digest: str) -> None:
        """Raise Damaged if a blob does not match its digest, or is missing."""
        with self.open(digest) as file:
            while file.read(PIECE):
                pass

    def read_json(self, digest: str) -> dict[str, Any]:
        """A small blob of JSON."""
        with self.open(digest) as file:
            found: dict[str, Any] = json.loads(file.read())
        return found

    def put(self, content: bytes) -> str:
        """Store a small blob; its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        path = self.path(digest)
        if not path.is_file() or path.read_bytes() != content:
            write_whole(path, content.decode())
        return digest

    def get(self, key: str) -> StoredLayer | None:
        """The layer with a cache key, if its blob has the recorded size."""
        file = self._keys / key
        try:
            layer = StoredLayer(**json.loads(file.read_text()))
            if self.path(layer.digest).stat().st_size != layer.size:
                raise ValueError
            os.utime(self.path(layer.digest))  # `hfdlc clean` keeps what was used last
            return layer
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            say(f"{file}: is damaged: its layer is made again")
            return None

    def add(self, folder: Path, *keys: str) -> StoredLayer | None:
        """Store what `image/pack.py` wrote into a folder, under cache keys and by the archive's digest.

        None if it is not complete yet.
        """
        file = folder / "layer.tar.zst"
        try:
            recorded = json.loads((folder / "layer.json").read_text())
            if file.stat().st_size != recorded["size"]:
                return None
        except (FileNotFoundError, ValueError):
            return None
        layer = StoredLayer(recorded["diff_id"], recorded["digest"], recorded["size"], ZSTD)
        return self._keep(file, layer, *keys)

    def add_base(self, archive: Path, root: Path) -> None:
        """Store the one layer of a base image that this machine made, under the name of its archive."""
        if self.get(archive.stem) or not archive.is_file():
            return
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            file = Path(folder, "layer.tar")
            with tarfile.open(archive) as outer, file.open("wb") as target:
                (inner,) = [member for member in outer if member.name.endswith("/layer.tar")]
                shutil.copyfileobj(cast("IO[bytes]", outer.extractfile(inner)), target, PIECE)
            layer = self.add_archive(file, archive.stem)
        self.compressed(layer, ZSTD, root)

    def add_archive(self, file: Path, *keys: str) -> StoredLayer:
        """Store an uncompressed layer under keys; the file may be linked into the store."""
        with file.open("rb") as content:
            digest = "sha256:" + hashlib.file_digest(content, "sha256").hexdigest()
        return self._keep(file, StoredLayer(digest, digest, file.stat().st_size, PLAIN), *keys)

    def packed(self, diff_id: str) -> StoredLayer | None:
        """The layer with this archive, compressed with zstd."""
        return self.get(_key(diff_id, ZSTD))

    def known(self, layer: StoredLayer, media_type: str) -> StoredLayer | None:
        """What `compressed` gives, if nothing has to be compressed for it."""
        if media_type in (layer.media_type, ZSTD) and layer.media_type != PLAIN:
            return layer
        return self.get(_key(layer.diff_id, media_type))

    def compressed(self, layer: StoredLayer, media_type: str, root: Path) -> StoredLayer:
        """The same layer with another compression, made once; `root` is the repository's folder.

        A layer that a registry gave compressed stays as it is if zstd is requested: every client that takes
        zstd takes gzip too. Raises Damaged if the blob does not match its digest.
        """
        if known := self.known(layer, media_type):
            return known
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            if media_type == ZSTD:
                run([sys.executable, str(root / "image/pack.py"), str(self.path(layer.digest)), folder])
                made = self.add(Path(folder))
                if not made or made.diff_id != layer.diff_id:
                    raise _set_aside(self.path(layer.digest))
                return made
            return self._gzip(layer, Path(folder, "layer.tar.gz"))

    def _gzip(self, layer: StoredLayer, file: Path) -> StoredLayer:
        archive = hashlib.sha256()
        with file.open("wb") as raw:
            blob = _DigestingWriter(raw)
            with (
                self.open(layer.digest) as content,
                _gzip_writer(blob) as target,
            ):
                stream = decompressed(content)
                # Pieces of one size: the compressor's output may depend on how its input is cut.
                while piece := stream.read(PIECE):
                    archive.update(piece)
                    target.write(piece)
        if f"sha256:{archive.hexdigest()}" != layer.diff_id:
            raise _set_aside(self.path(layer.digest))
        return self._keep(file, StoredLayer(layer.diff_id, blob.digest, blob.size, GZIP))

    def share(self, layer: StoredLayer, blobs: Path) -> None:
        """Keep a blob once that another program has in a folder of blobs too: both become one file."""
        own, other = self.path(layer.digest), blobs / layer.digest.replace(":", "/")
        try:
            if other.stat().st_size != layer.size or other.samefile(own):
                return
            with tempfile.TemporaryDirectory(dir=self.root) as folder:
                link = Path(folder, "blob")
                link.hardlink_to(other)
                link.replace(own)
        except OSError:  # not there, of another user, or on another disk
            return

    def _keep(self, file: Path, layer: StoredLayer, *keys: str) -> StoredLayer:
        blob = self.path(layer.digest)
        blob.parent.mkdir(parents=True, exist_ok=True)
        if blob.exists() and blob.stat().st_size != layer.size:
            blob.unlink()
        with suppress(FileExistsError):
            blob.hardlink_to(file)  # the process that wrote it may still have it open
        for key in (*keys, _key(layer.diff_id, layer.media_type)):
            write_whole(self._keys / key, json.dumps(asdict(layer)))
        return layer


class _VerifyingReader(io.RawIOBase):
    """Reads a blob, and compares it with its digest at the end."""

    def __init__(self, path: Path, digest: str) -> None:
        self._file, self._path, self._digest, self._seen = path.open("rb"), path, digest, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._file.read(len(buffer))
        self._seen.update(piece)
        buffer[: len(piece)] = piece
        if not piece and f"sha256:{self._seen.hexdigest()}" != self._digest:
            raise _set_aside(self._path)
        return len(piece)

    def close(self) -> None:
        self._file.close()
        super().close()


class _DigestingWriter:
    """Writes to a file, and knows the digest and size of what it wrote."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._seen, self.size = file, hashlib.sha256(), 0

    def write(self, content: bytes) -> int:
        self._seen.update(content)
        self.size += len(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> str:
        return f"sha256:{self._seen.hexdigest()}"


def _gzip_writer(target: _DigestingWriter) -> IO[bytes]:
    untyped: Any = GzipNGFile
    # No name and no time in its header.
    return cast("IO[bytes]", untyped("", "wb", GZIP_LEVEL, target, mtime=0))


def _set_aside(path: Path) -> Damaged:
    """Move a damaged blob out of the way, so that the next run makes it again; the error to raise."""
    aside = path.with_suffix(".set-aside")
    with suppress(FileNotFoundError):  # another thread found it first
        path.replace(aside)
    return Damaged(
        f"is damaged: its content does not match its digest. It is set aside as {aside.name}",
        location=str(path),
        hint="run this again: it is made again",
    )


def decompressed(content: IO[bytes]) -> IO[bytes]:
    """A layer as an archive: from gzip, zstd or an uncompressed archive."""
    if isinstance(content, io.BufferedReader):
        start = content.peek(4)[:4]
    else:
        start = content.read(4)
        content.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=content))
    return cast("IO[bytes]", ZstdFile(content)) if start == b"\x28\xb5\x2f\xfd" else content


def _key(diff_id: str, media_type: str) -> str:
    return f"{diff_id.partition(':')[2]}-{SUFFIXES[media_type]}"
