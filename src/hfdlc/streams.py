"""Pieces of bytes, as clients of Docker and of registries give them, read as a file."""

import io
from collections.abc import Iterator
from typing import IO, cast

BUFFER = 1 << 20  # bytes


def as_file(pieces: Iterator[bytes]) -> IO[bytes]:
    """A file that is read once, from its start. A read gives fewer bytes than requested only at the end."""
    return cast("IO[bytes]", io.BufferedReader(_Pieces(pieces), BUFFER))


class _Pieces(io.RawIOBase):
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            try:
                self._rest = next(self._pieces)
            except StopIteration:
                return 0
        piece, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)
