"""Content-Encoding of request bodies (RFC 9110, section 8.4): gzip and deflate."""

import re
import zlib
from typing import Optional, Sequence, Tuple

from hf_inference_toolkit.errors import RequestError

SUPPORTED = ("gzip", "deflate", "identity")
_ALIASES = {"x-gzip": "gzip"}
# A body is decompressed in pieces of this size. zlib copies what follows the end of a member of a gzip file, and a file
# of 25 MB may have a million members.
PIECE = 8 * 1024
_ZEROS = re.compile(b"\0*")


def coding(headers: Sequence[str]) -> str:
    """The coding in the Content-Encoding headers. RequestError (415) for an unsupported or second coding."""
    names = [name.strip().lower() for name in ",".join(headers).split(",")]
    # Empty members of a list are ignored (RFC 9110, section 5.6.1), and "identity" does not change the body.
    names = [_ALIASES.get(name, name) for name in names if name not in ("", "identity")]
    if not names:
        return "identity"
    if len(names) > 1 or names[0] not in SUPPORTED:
        raise RequestError(
            "unsupported_media_type",
            "Content-Encoding '{}' cannot be read; supported is one of {}".format(
                ", ".join(names)[:100], ", ".join(SUPPORTED)
            ),
            {"Accept-Encoding": ", ".join(SUPPORTED)},
        )
    return names[0]


def decompress(body: bytes, name: str, limit: int) -> Optional[bytes]:
    """The decompressed body. None if it is larger than `limit` bytes; no more than that is decompressed."""
    if name == "identity":
        return body
    try:
        if name == "gzip":
            return _gzip(body, limit)
        # "deflate" is the zlib format, but some clients omit the zlib header.
        return _member(body, 0, zlib.MAX_WBITS if _has_zlib_header(body) else -zlib.MAX_WBITS, limit)[0]
    except (zlib.error, EOFError):
        raise RequestError("malformed", "the body is not valid and complete {} data".format(name)) from None


def _gzip(body: bytes, limit: int) -> Optional[bytes]:
    """Decompress all members of a gzip file, which may be padded with zeros."""
    parts = []
    place, left = 0, limit
    while place < len(body):
        part, place = _member(body, place, zlib.MAX_WBITS | 16, left)
        if part is None:
            return None
        parts.append(part)
        left -= len(part)
        zeros = _ZEROS.match(body, place)
        place = zeros.end() if zeros else place
    return b"".join(parts)


def _member(body: bytes, place: int, window: int, limit: int) -> Tuple[Optional[bytes], int]:
    """The decompressed data that begin at `place`, None if they are larger than `limit`; and where they end.

    `window` is `wbits` of zlib, which selects the format.
    """
    reader = zlib.decompressobj(window)
    parts = []
    while not reader.eof and place < len(body):
        piece = body[place : place + PIECE]
        part = reader.decompress(piece, limit + 1)
        limit -= len(part)
        if limit < 0:
            return None, place
        parts.append(part)
        place += len(piece) - len(reader.unused_data)
    if not reader.eof:
        raise EOFError
    return b"".join(parts), place


def _has_zlib_header(body: bytes) -> bool:
    return len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
