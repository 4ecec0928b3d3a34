#!/usr/bin/env python3
"""Packs a layer as registries keep it: `pack SOURCE FOLDER`.

SOURCE is a folder that will be `/`, or an archive of one. FOLDER gets `layer.tar.zst` and `layer.json`:
the digests of the archive (`diff_id`) and of what it is packed to (`digest`), and the sizes of both. The same
files give the same bytes, on however many cores.
"""

import hashlib
import json
import os
import sys
import tarfile
from pathlib import Path

from backports import zstd

LEVEL = 3  # `make bench-build` compares the levels
PIECE = 1 << 20  # bytes


class Counted:
    """Hands on what is written, in large pieces, and knows its digest and size."""

    def __init__(self, target):
        self.target, self.seen, self.size, self.pieces, self.waiting = target, hashlib.sha256(), 0, [], 0

    def write(self, content):
        """Take in some more."""
        self.pieces.append(bytes(content))
        self.waiting += len(content)
        self.size += len(content)
        if self.waiting >= PIECE:
            self.flush()

    def flush(self):
        """Hand on what is waiting."""
        piece = b"".join(self.pieces)
        self.pieces, self.waiting = [], 0
        self.seen.update(piece)
        self.target.write(piece)

    def tell(self):
        """How much there was: an archive asks for that."""
        return self.size

    def digest(self):
        """Of all that was written; nothing follows."""
        self.flush()
        return "sha256:" + self.seen.hexdigest()


def main(source, folder):
    """Pack the folder or archive `source`, into the folder `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        zstd.CompressionParameter.compression_level: LEVEL,
        zstd.CompressionParameter.checksum_flag: 1,
        # From one worker on, their number changes no byte.
        zstd.CompressionParameter.nb_workers: os.cpu_count() or 1,
    }
    with (folder / "layer.tar.zst").open("wb") as file:
        packed = Counted(file)
        with zstd.ZstdFile(packed, "w", options=options) as compressed:
            plain = Counted(compressed)
            (lay if source.is_dir() else copy)(source, plain)
            told = {"diff_id": plain.digest(), "unpacked": plain.size}
        told.update(digest=packed.digest(), size=packed.size)
    (folder / "layer.json").write_text(json.dumps(told))


def copy(archive, target):
    """Write an archive as it is."""
    with archive.open("rb") as file:
        for piece in iter(lambda: file.read(PIECE), b""):
            target.write(piece)


def lay(folder, target):
    """Write the files of a folder as an archive: owned by root, in the order of their names."""
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT, copybufsize=PIECE) as archive:
        for path in sorted(folder.rglob("*")):
            member = archive.gettarinfo(str(path), str(path.relative_to(folder)))
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = int(member.mtime)
            if member.isreg():
                with path.open("rb") as file:
                    archive.addfile(member, file)
            else:
                archive.addfile(member)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
