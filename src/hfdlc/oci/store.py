"""LayerStore as registries keep them: packed once, found again by what made them, or by their digest.

They lie in the state folder as an OCI image layout, into which BuildKit itself writes bases. What is damaged
is set aside and made again: the digest decides, never that a file is there.
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

from hfdlc.errors import HfdlcError
from hfdlc.process import run, say
from hfdlc.state import State, write_whole

FOLDER = "layers"  # below the state folder
FORM = "1"  # raised when what is kept is written in another way
PIECE = 1 << 20  # bytes
LEVEL = 6  # of gzip
# https://github.com/opencontainers/image-spec/blob/v1.1.0/layer.md
PLAIN = "application/vnd.oci.image.layer.v1.tar"
ZSTD, GZIP = f"{PLAIN}+zstd", f"{PLAIN}+gzip"


@dataclass(frozen=True)
class StoredLayer:
    """A layer in one of its forms."""

    diff_id: str  # the digest of its archive
    digest: str  # of what the archive is packed to
    size: int  # bytes, packed
    media_type: str


class LayerStore:
    """The layer store of a machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known = root / "known" / FORM

    @classmethod
    def of(cls, state: State) -> "LayerStore":
        """Those that runs share."""
        return cls(state.folder(FOLDER))

    def path(self, digest: str) -> Path:
        """Where a blob is, if it is there."""
        return self.root / "blobs" / digest.replace(":", "/")

    def open(self, digest: str) -> IO[bytes]:
        """A blob; one that is read to its end is held against its digest."""
        return io.BufferedReader(_Held(self.path(digest), digest), PIECE)

    def reopen(self, digest: str, offset: int) -> IO[bytes]:
        """A blob from an offset on, for who holds it against its digest by himself."""
        file = self.path(digest).open("rb")
        file.seek(offset)
        return file

    def read(self, digest: str) -> dict[str, Any]:
        """A small blob of JSON."""
        with self.open(digest) as file:
            found: dict[str, Any] = json.loads(file.read())
        return found

    def get(self, name: str) -> StoredLayer | None:
        """What is kept under a name, if its blob is there in its size."""
        file = self._known / name
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

    def add(self, folder: Path, *names: str) -> StoredLayer | None:
        """Keep what `image/pack.py` wrote into a folder, under names and by the archive's digest.

        None while it is not there whole.
        """
        file = folder / "layer.tar.zst"
        try:
            told = json.loads((folder / "layer.json").read_text())
            if file.stat().st_size != told["size"]:
                return None
        except (FileNotFoundError, ValueError):
            return None
        layer = StoredLayer(told["diff_id"], told["digest"], told["size"], ZSTD)
        return self._keep(file, layer, *names)

    def add_base(self, archive: Path, root: Path) -> None:
        """Keep the one layer of a base that this machine made, before an image is made from it."""
        if self.get(archive.stem) or not archive.is_file():
            return
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            file = Path(folder, "layer.tar")
            with tarfile.open(archive) as outer, file.open("wb") as target:
                (inner,) = [member for member in outer if member.name.endswith("/layer.tar")]
                shutil.copyfileobj(cast("IO[bytes]", outer.extractfile(inner)), target, PIECE)
            with file.open("rb") as made:
                digest = "sha256:" + hashlib.file_digest(made, "sha256").hexdigest()
            layer = self._keep(file, StoredLayer(digest, digest, file.stat().st_size, PLAIN), archive.stem)
        self.packed(layer, ZSTD, root)

    def packed(self, layer: StoredLayer, media_type: str, root: Path) -> StoredLayer:
        """The same layer in another form; `root` is the repository's folder.

        What a registry gave compressed is left as it is where zstd is asked for.
        """
        if media_type in (layer.media_type, ZSTD) and layer.media_type != PLAIN:
            return layer
        if known := self.get(_name(layer.diff_id, media_type)):
            return known
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            if media_type == ZSTD:
                run([sys.executable, str(root / "image/pack.py"), str(self.path(layer.digest)), folder])
                made = self.add(Path(folder))
                if not made or made.diff_id != layer.diff_id:
                    raise _damaged(self.path(layer.digest))
                return made
            file = Path(folder, "layer.tar.gz")
            with (
                self.open(layer.digest) as content,
                file.open("wb") as raw,
                gzip.GzipFile("", "wb", LEVEL, raw, mtime=0) as target,
            ):
                shutil.copyfileobj(plain(content), target, PIECE)
            with file.open("rb") as packed:
                digest = "sha256:" + hashlib.file_digest(packed, "sha256").hexdigest()
            return self._keep(file, StoredLayer(layer.diff_id, digest, file.stat().st_size, media_type))

    def _keep(self, file: Path, layer: StoredLayer, *names: str) -> StoredLayer:
        blob = self.path(layer.digest)
        blob.parent.mkdir(parents=True, exist_ok=True)
        if blob.exists() and blob.stat().st_size != layer.size:
            blob.unlink()
        with suppress(FileExistsError):
            blob.hardlink_to(file)  # whoever wrote it may still hold it
        for name in (*names, _name(layer.diff_id, layer.media_type)):
            write_whole(self._known / name, json.dumps(asdict(layer)))
        return layer


class _Held(io.RawIOBase):
    """Reads a blob, and at its end finds out whether it is the one that its name says."""

    def __init__(self, path: Path, digest: str) -> None:
        self._file, self._path, self._digest, self._seen = path.open("rb"), path, digest, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._file.read(len(buffer))
        self._seen.update(piece)
        buffer[: len(piece)] = piece
        if not piece and f"sha256:{self._seen.hexdigest()}" != self._digest:
            raise _damaged(self._path)
        return len(piece)

    def close(self) -> None:
        self._file.close()
        super().close()


def _damaged(path: Path) -> HfdlcError:
    """What is said of a blob that is not what its name says, when it is out of the way."""
    aside = path.with_suffix(".set-aside")
    path.replace(aside)
    return HfdlcError(
        f"is damaged: set aside as {aside.name}", where=str(path), then="run this again: it is made anew"
    )


def plain(content: IO[bytes]) -> IO[bytes]:
    """A layer as an archive, whichever way it is compressed."""
    if isinstance(content, io.BufferedReader):
        start = content.peek(4)[:4]
    else:
        start = content.read(4)
        content.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=content))
    return cast("IO[bytes]", ZstdFile(content)) if start == b"\x28\xb5\x2f\xfd" else content


def _name(diff_id: str, media_type: str) -> str:
    return f"{diff_id.partition(':')[2]}-{media_type.rpartition('+')[2]}"
