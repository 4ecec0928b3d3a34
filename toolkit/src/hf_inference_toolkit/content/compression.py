"""Bodies with a Content-Encoding (RFC 9110, section 8.4): gzip and deflate."""

import zlib
from typing import Optional

from hf_inference_toolkit.errors import RequestError

SUPPORTED = ("gzip", "deflate", "identity")
_ALIASES = {"": "identity", "x-gzip": "gzip"}


def coding(header: Optional[str]) -> str:
    """The one coding that a Content-Encoding header names, in lower case; 415 for any other."""
    name = (header or "").strip().lower()
    name = _ALIASES.get(name, name)
    if name not in SUPPORTED:
        raise RequestError(
            "unsupported_media_type",
            "Content-Encoding '{}' cannot be read; supported: {}".format(name[:100], ", ".join(SUPPORTED)),
            {"Accept-Encoding": ", ".join(SUPPORTED)},
        )
    return name


def decompress(body: bytes, name: str, limit: int) -> Optional[bytes]:
    """The decoded body; None when it has more than `limit` bytes, of which no more are decoded then."""
    if name == "identity":
        return body
    try:
        if name == "gzip":
            return _gzip(body, limit)
        # "deflate" is zlib's format, and some clients send it without zlib's header.
        return _whole(
            zlib.decompressobj(zlib.MAX_WBITS if _has_zlib_header(body) else -zlib.MAX_WBITS), body, limit
        )
    except (zlib.error, EOFError):
        raise RequestError("malformed", "the body is not complete {} data".format(name)) from None


def _gzip(body: bytes, limit: int) -> Optional[bytes]:
    """A gzip file may have several members, one after the other, and zeros at its end."""
    parts = []
    left = limit
    while body:
        reader = zlib.decompressobj(zlib.MAX_WBITS | 16)
        part = _whole(reader, body, left)
        if part is None:
            return None
        parts.append(part)
        left -= len(part)
        body = reader.unused_data.lstrip(b"\0")
    return b"".join(parts)


# zlib's decompression object has no public type.
def _whole(reader, body: bytes, limit: int) -> Optional[bytes]:  # type: ignore[no-untyped-def]
    decoded: bytes = reader.decompress(body, limit + 1)
    if len(decoded) > limit:
        return None
    if not reader.eof:
        raise EOFError
    return decoded


def _has_zlib_header(body: bytes) -> bool:
    return len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
