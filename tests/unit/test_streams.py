"""Pieces of bytes are read as one file, however they are cut."""

from collections.abc import Iterator

import pytest

from hfdlc.streams import BUFFER, as_file


@pytest.mark.parametrize("pieces", [[], [b""], [b"abc"], [b"a", b"", b"bc"], [b"a" * (BUFFER + 1), b"b"]])
def test_file_has_the_bytes_of_all_pieces(pieces: list[bytes]) -> None:
    assert as_file(iter(pieces)).read() == b"".join(pieces)


def test_read_crosses_the_ends_of_pieces() -> None:
    """A short read is the end of the archive for tarfile."""
    file = as_file(iter([b"ab", b"c", b"defg"]))
    assert [file.read(5), file.read(5), file.read(5)] == [b"abcde", b"fg", b""]


def test_error_of_the_source_is_raised() -> None:
    def broken() -> Iterator[bytes]:
        yield b"a"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        as_file(broken()).read()
