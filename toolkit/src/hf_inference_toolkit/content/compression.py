"""Content-Encoding of request bodies (RFC 9110, section 8.4): gzip and deflate."""

import zlib
from typing import Optional, Sequence

from hf_inference_toolkit.errors import RequestError

SUPPORTED = ("gzip", "deflate", "identity")
_ALIASES = {"x-gzip": "gzip"}


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
        return _whole(
            zlib.decompressobj(zlib.MAX_WBITS if _has_zlib_header(body) else -zlib.MAX_WBITS), body, limit
        )
    except (zlib.error, EOFError):
        raise RequestError("malformed", "the body is not valid and complete {} data".format(name)) from None


def _gzip(body: bytes, limit: int) -> Optional[bytes]:
    """Decompress all members of a gzip file, which may be padded with zeros."""
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
