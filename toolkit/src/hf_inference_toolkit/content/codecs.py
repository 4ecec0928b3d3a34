"""Content types of requests and responses, and the selection of a response's type from Accept."""

import functools
from typing import Dict, List, NamedTuple, Optional, Tuple

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import Parameters
from hf_inference_toolkit.content import payload, tables
from hf_inference_toolkit.errors import RequestError

JSON = "application/json"
JSON_LINES = "application/jsonlines"
CSV = "text/csv"
PLAIN = "text/plain"
NPY = "application/x-npy"
PNG = "image/png"
WAV = "audio/wav"
# The type of such a body is detected from its first bytes.
BINARY = "application/octet-stream"
WRITTEN = (JSON, JSON_LINES, CSV, PLAIN, NPY)
MEDIA = ("image/", "audio/")
ALIASES = {
    "application/x-json": JSON,
    "text/json": JSON,
    "application/json-lines": JSON_LINES,
    "application/x-jsonlines": JSON_LINES,
    "application/x-ndjson": JSON_LINES,
    "application/jsonl": JSON_LINES,
    "application/csv": CSV,
    "audio/wave": WAV,
    "audio/x-wav": WAV,
    "audio/vnd.wave": WAV,
}
# Clients send these if they do not know the type. `curl -d` sends the form type for any body.
UNKNOWN = (BINARY, "binary/octet-stream", "application/x-www-form-urlencoded", "application/*", "*/*")
READ_WORDS = ", ".join((JSON, JSON_LINES, CSV, PLAIN, NPY, "image/*", "audio/*"))


# Signatures of file types: offset, bytes, type.
SIGNATURES = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (8, b"WEBP", "image/webp"),
    (8, b"WAVE", "audio/wav"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
    (4, b"ftypM4A", "audio/mp4"),
    (0, b"\x93NUMPY", NPY),
)


class MediaType(NamedTuple):
    """A media type in lower case and its parameters.

    `task_parameters` are the task's parameters from the query string and headers.
    """

    name: str
    parameters: Dict[str, str]
    task_parameters: Parameters = {}


def parse(header: str) -> MediaType:
    """The media type in a header such as `application/json; charset=UTF-8`, with aliases replaced."""
    media = as_sent(header)
    return MediaType(ALIASES.get(media.name, media.name), media.parameters)


def as_sent(header: str) -> MediaType:
    """Like `parse`, but with the name that the client sent."""
    name, *rest = header.split(";")
    parameters = {}
    for part in rest:
        key, _, value = part.partition("=")
        parameters[key.strip().lower()] = value.strip().strip('"')
    return MediaType(name.strip().lower(), parameters)


@functools.lru_cache(maxsize=64)
def content_type(header: Optional[str]) -> MediaType:
    """The type of a request's body, BINARY if it is not known. RequestError (415) for an unsupported type."""
    if not header or not header.strip():
        return MediaType(BINARY, {})
    media = parse(header)
    if media.name in UNKNOWN:
        return media._replace(name=BINARY)
    if media.name in WRITTEN or media.name.startswith(MEDIA):
        return media
    raise RequestError(
        "unsupported_media_type",
        "Content-Type {!r} cannot be read; supported: {}".format(media.name[:100], READ_WORDS),
        {"Accept": READ_WORDS},
    )


@functools.lru_cache(maxsize=64)
def accepted(header: Optional[str], default: str, media: Tuple[str, ...] = ()) -> str:
    """The type with the highest q-value in Accept, then the first in WRITTEN. RequestError (406) if there is none.

    `media` are image or audio types that can be written too, if Accept names them; `*/*` does not match them.
    """
    if not header or not header.strip():
        header = default
    ranges = [_weighted(part) for part in header.split(",") if part.strip()]
    best = (0.0, "")
    usual = parse(default).name
    offers = sorted(WRITTEN, key=lambda name: name != usual)
    for name in media:
        # Of types with equal weights, the one that the client names first.
        is_first = name == usual or (ranges and _weight(name, ranges[:1], usual) > 0)
        offers.insert(0 if is_first else len(offers), name)
    for offered in offers:
        weight = _weight(offered, ranges, usual)
        if weight > best[0]:
            best = (weight, offered)
    if not best[1]:
        raise RequestError(
            "not_acceptable",
            "no type in Accept {!r} can be written; supported: {}".format(
                header[:200], ", ".join((*WRITTEN, *media))
            ),
        )
    return best[1]


def preferred(header: str, default: str) -> str:
    """The type with the highest q-value in Accept, supported or not: user code may write any type."""
    ranges = [_weighted(part) for part in header.split(",") if part.strip()]
    best = max(ranges, key=lambda one: one[1])[0] if ranges else default
    return default if "*" in best else best


def _weighted(part: str) -> Tuple[str, float]:
    media = parse(part)
    try:
        weight = float(media.parameters.get("q", "1"))
    except ValueError:
        weight = 0.0
    return media.name, weight if 0.0 <= weight <= 1.0 else 0.0


def _weight(offered: str, ranges: List[Tuple[str, float]], usual: str) -> float:
    """The q-value of the most specific media range that matches (RFC 9110, section 12.5.1)."""
    patterns = [offered, offered.split("/")[0] + "/*"]
    if offered in WRITTEN or offered == usual:
        patterns.append("*/*")
    for pattern in patterns:
        for name, weight in ranges:
            if name == pattern:
                return weight
    return 0.0


def sniff(media: MediaType, body: bytes) -> MediaType:
    """Detect an unknown type from the first bytes; JSON if no signature matches."""
    if media.name not in UNKNOWN:
        return media._replace(name=ALIASES.get(media.name, media.name))
    for offset, signature, name in SIGNATURES:
        if body.startswith(signature, offset):
            return media._replace(name=name)
    # An MPEG audio frame: eleven sync bits, two bits for the version, 01 for layer III.
    if len(body) > 1 and body[0] == 0xFF and body[1] & 0xE6 == 0xE2:
        return media._replace(name="audio/mpeg")
    return media._replace(name=JSON)


def read(body: bytes, media: MediaType, root: Tuple[str, ...] = ()) -> payload.Request:
    """Parse a body into a request. The input of image and audio bodies is their bytes.

    `root` are parameters that may be at the top level of a JSON document.
    """
    media = sniff(media, body)
    request = _read(body, media, root)
    if not media.task_parameters:
        return request
    for name in media.task_parameters:
        if name in request.parameters:
            raise RequestError(
                "unsupported_value",
                "parameter '{}' is both in the body and in the query string or a header".format(name[:100]),
            )
    return request._replace(parameters=dict(request.parameters, **media.task_parameters))


def _read(body: bytes, media: MediaType, root: Tuple[str, ...]) -> payload.Request:
    charset = media.parameters.get("charset")
    if media.name == JSON:
        return _read_json(body, charset, root)
    if media.name.startswith(MEDIA):
        return payload.Request(body, {}, [])
    if media.name == NPY:
        return payload.Request(tables.read_npy(body), {}, [])
    text = payload.decode(body, charset)
    payload.check_value(text)
    if media.name == JSON_LINES:
        return _read_lines(text, root)
    return payload.Request(tables.read_csv(text) if media.name == CSV else text, {}, [])


def _read_json(body: bytes, charset: Optional[str], root: Tuple[str, ...]) -> payload.Request:
    """One document, or several, one a line: SageMaker's batch transform sends JSON Lines with this type."""
    try:
        document = payload.read_json(body, charset)
    except RequestError:
        text = payload.decode(body, charset)
        first, _, others = text.strip(payload.WHITESPACE).partition("\n")
        if not others or not payload.is_json(first):
            raise
        return _read_lines(text, root)
    return payload.request(document, root)


def _read_lines(text: str, root: Tuple[str, ...]) -> payload.Request:
    """JSON Lines. Each line is an input, or `{"inputs": ...}` with the same parameters on every line."""
    if text.count("\n") > limits.ITEMS:
        raise payload.too_many("lines", limits.ITEMS)
    inputs: List[object] = []
    parameters: Parameters = {}
    # Not str.splitlines, which also splits at U+2028, U+0085 and others that JSON strings may contain.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip(payload.WHITESPACE):
            continue
        try:
            value = payload.read_json(line.encode("utf-8"))
            if isinstance(value, dict) and payload.is_request(value):
                one = payload.request(value, root)
                if inputs and one.parameters != parameters:
                    raise RequestError(
                        "unsupported_value", "its parameters differ from those of the lines before"
                    )
                value, parameters = one.inputs, one.parameters
        except RequestError as problem:
            raise RequestError(problem.kind, "line {}: {}".format(number, problem.message)) from None
        inputs.append(value)
    if not inputs:
        raise RequestError("malformed", "the body has no lines")
    return payload.Request(inputs, parameters, [])


def write(value: object, accept: str) -> bytes:
    """Serialize an answer. RequestError (406) if it cannot be written in this type."""
    if accept == JSON:
        return payload.write_json(value)
    if accept == JSON_LINES:
        lines = value if isinstance(value, list) else [value]
        return b"".join(payload.write_json(line) + b"\n" for line in lines)
    if accept == PLAIN:
        return value.encode("utf-8", "replace") if isinstance(value, str) else payload.write_json(value)
    if accept == CSV:
        return tables.write_csv(value)
    array = tables.write_npy(value)
    if array is None:
        raise RequestError(
            "not_acceptable", "the answer is not an array of numbers; request Accept: {}".format(JSON)
        )
    return array
