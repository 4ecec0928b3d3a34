#!/usr/bin/env python3
"""Compress a layer as registries store it: `pack SOURCE FOLDER`.

SOURCE is a folder that will be `/`, or an uncompressed tar archive of one. Writes `layer.tar.zst` and
`layer.json` into FOLDER. `layer.json` has the digest of the archive before (`diff_id`) and after (`digest`)
compression, and its size. The same files give the same bytes, whatever the number of cores.
"""

import hashlib
import json
import os
import sys
import tarfile
from pathlib import Path

from backports import zstd

LEVEL = 3  # `make bench-build` compares the levels
CHUNK = 1 << 20  # bytes


class HashingWriter:
    """Forwards what is written, in large chunks, and computes its digest and size."""

    def __init__(self, target):
        self.target, self.hash, self.size, self.chunks, self.buffered = target, hashlib.sha256(), 0, [], 0

    def write(self, content):
        self.chunks.append(bytes(content))
        self.buffered += len(content)
        self.size += len(content)
        if self.buffered >= CHUNK:
            self.flush()

    def flush(self):
        chunk = b"".join(self.chunks)
        self.chunks, self.buffered = [], 0
        self.hash.update(chunk)
        self.target.write(chunk)

    def tell(self):
        """The bytes written so far: tarfile calls this."""
        return self.size

    def digest(self):
        """The digest of all that was written; nothing may follow."""
        self.flush()
        return "sha256:" + self.hash.hexdigest()


def main(source, folder):
    """Compress the folder or archive `source` into the folder `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        zstd.CompressionParameter.compression_level: LEVEL,
        zstd.CompressionParameter.checksum_flag: 1,
        # Any number of workers from 1 on gives the same bytes.
        zstd.CompressionParameter.nb_workers: os.cpu_count() or 1,
    }
    with (folder / "layer.tar.zst").open("wb") as file:
        archive = HashingWriter(file)
        with zstd.ZstdFile(archive, "w", options=options) as compressed:
            tar = HashingWriter(compressed)
            (write_tar if source.is_dir() else copy)(source, tar)
            diff_id = tar.digest()
        metadata = {"diff_id": diff_id, "digest": archive.digest(), "size": archive.size}
    (folder / "layer.json").write_text(json.dumps(metadata))


def copy(archive, target):
    """Write an archive as it is."""
    with archive.open("rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            target.write(chunk)


def write_tar(folder, target):
    """Write the files of a folder as an archive: owned by root, sorted by name."""
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT, copybufsize=CHUNK) as archive:
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
