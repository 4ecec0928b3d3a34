"""The differences between two images, file by file."""

import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from tempfile import TemporaryFile
from typing import IO, Any

from hfdlc.oci.image import Image
from hfdlc.oci.store import decompressed

CHUNK = 1 << 20  # bytes
# Attributes of a file in a layer, as tarfile names them.
ATTRIBUTES = ("type", "mode", "uid", "gid", "uname", "gname", "mtime", "size", "linkname", "pax_headers")


def between(one: Image, other: Image) -> Iterator[str]:
    """A line for each difference: in the configuration, and in the files of every layer."""
    yield from _of_json("configuration", one.settings, other.settings)
    layers = [[layer["digest"] for layer in image.manifest.parsed["layers"]] for image in (one, other)]
    for number, (left, right) in enumerate(zip_longest(*layers)):
        if left is None or right is None:
            yield f"layer {number}: only one of them has it"
        elif left != right:
            with _unpacked(one, left) as first, _unpacked(other, right) as second:
                found = list(_of_layers(first, second))
            yield from (
                f"layer {number}: {line}" for line in found or ["the order of files, or the compression"]
            )


@contextmanager
def _unpacked(image: Image, digest: str) -> Iterator[IO[bytes]]:
    """A layer as a seekable archive."""
    with TemporaryFile(dir=image.store.root) as file:
        with image.open(digest, 0) as content:
            shutil.copyfileobj(decompressed(content), file, CHUNK)
        file.seek(0)
        yield file


def _of_json(where: str, one: Any, other: Any) -> Iterator[str]:
    """The innermost values that differ, without the digests of layers."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other} - {"rootfs"}):
            yield from _of_json(f"{where}, {key}", one.get(key), other.get(key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _of_json(f"{where} {number}", left, right)
    elif one != other:
        yield f"{where}: {one!r} and {other!r}"


def _of_layers(one: IO[bytes], other: IO[bytes]) -> Iterator[str]:
    with tarfile.open(fileobj=one) as first, tarfile.open(fileobj=other) as second:
        here, there = ({member.name: member for member in layer} for layer in (first, second))
        for name in sorted({*here, *there}):
            if name not in here or name not in there:
                yield f"/{name}: only the {'first' if name in here else 'second'} has it"
                continue
            left, right = here[name], there[name]
            for attribute in ATTRIBUTES:
                values = [_shown(attribute, member) for member in (left, right)]
                if values[0] != values[1]:
                    yield f"/{name}: {attribute} {' and '.join(values)}"
            if left.isreg() and right.isreg():
                at = _first_difference(first.extractfile(left), second.extractfile(right))
                if at is not None:
                    yield f"/{name}: content, from byte {at}"


def _shown(attribute: str, member: tarfile.TarInfo) -> str:
    value = getattr(member, attribute)
    return f"{value:o}" if attribute == "mode" else f"{value!r}"


def _first_difference(one: IO[bytes] | None, other: IO[bytes] | None) -> int | None:
    """The offset of the first byte that differs; None where there is none."""
    assert one
    assert other
    at = 0
    while True:
        left, right = one.read(CHUNK), other.read(CHUNK)
        if left != right:
            pairs = enumerate(zip_longest(left, right))
            return at + next(number for number, (a, b) in pairs if a != b)
        if not left:
            return None
        at += len(left)
