"""Content types: which are read, which are written, and the choice that Accept asks for."""

import csv
import functools
import io
import json
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from hf_inference_toolkit import limits
from hf_inference_toolkit.content import payload
from hf_inference_toolkit.errors import RequestError

JSON = "application/json"
JSON_LINES = "application/jsonlines"
CSV = "text/csv"
PLAIN = "text/plain"
NPY = "application/x-npy"
WRITTEN = (JSON, JSON_LINES, CSV, PLAIN, NPY)
ALIASES = {
    "application/x-json": JSON,
    "text/json": JSON,
    "application/json-lines": JSON_LINES,
    "application/x-jsonlines": JSON_LINES,
    "application/x-ndjson": JSON_LINES,
    "application/jsonl": JSON_LINES,
    "application/csv": CSV,
}
READ_WORDS = ", ".join((JSON, JSON_LINES, CSV, PLAIN, NPY, "image/*", "audio/*"))


class MediaType(NamedTuple):
    """A media type without its parameters, in lower case, and its parameters."""

    name: str
    parameters: Dict[str, str]


def parse(header: str) -> MediaType:
    """`application/json; charset=UTF-8` taken apart."""
    media = as_sent(header)
    return MediaType(ALIASES.get(media.name, media.name), media.parameters)


def as_sent(header: str) -> MediaType:
    """The same, under the name that the client has for it."""
    name, *rest = header.split(";")
    parameters = {}
    for part in rest:
        key, _, value = part.partition("=")
        parameters[key.strip().lower()] = value.strip().strip('"')
    return MediaType(name.strip().lower(), parameters)


@functools.lru_cache(maxsize=64)
def content_type(header: Optional[str]) -> MediaType:
    """The type of a request's body, JSON when none is named; 415 for what cannot be read."""
    if not header or not header.strip():
        return MediaType(JSON, {})
    media = parse(header)
    # The default of curl -d. Nobody sends a form here; the examples are JSON.
    if media.name == "application/x-www-form-urlencoded":
        return MediaType(JSON, {})
    if media.name in WRITTEN or media.name.startswith(("image/", "audio/")):
        return media
    raise RequestError(
        "unsupported_media_type",
        "Content-Type {!r} cannot be read; supported: {}".format(media.name[:100], READ_WORDS),
        {"Accept": READ_WORDS},
    )


@functools.lru_cache(maxsize=64)
def accepted(header: Optional[str], default: str) -> str:
    """The best type that Accept allows, by its q-values and then by our order; 406 when there is none."""
    if not header or not header.strip():
        header = default
    ranges = [_weighted(part) for part in header.split(",") if part.strip()]
    best = (0.0, "")
    for offered in sorted(WRITTEN, key=lambda name: name != parse(default).name):
        weight = _weight(offered, ranges)
        if weight > best[0]:
            best = (weight, offered)
    if not best[1]:
        raise RequestError(
            "not_acceptable",
            "no type in Accept {!r} can be written; supported: {}".format(header[:200], ", ".join(WRITTEN)),
        )
    return best[1]


def preferred(header: str, default: str) -> str:
    """The type that a client likes best, whether or not we could write it; for user code, which may."""
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


def _weight(offered: str, ranges: List[Tuple[str, float]]) -> float:
    """The q-value of the most specific range that covers a type, as RFC 9110 has it."""
    for pattern in (offered, offered.split("/")[0] + "/*", "*/*"):
        for name, weight in ranges:
            if name == pattern:
                return weight
    return 0.0


def read(body: bytes, media: MediaType) -> payload.Request:
    """A request from a body of any type but image and audio, whose bytes are the input as they are."""
    charset = media.parameters.get("charset")
    if media.name == JSON:
        return payload.request(payload.read_json(body, charset))
    if media.name.startswith(("image/", "audio/")):
        inputs: Any = body
    elif media.name == NPY:
        inputs = _read_npy(body)
    else:
        text = payload.decode(body, charset)
        payload.check_value(text)
        inputs = {JSON_LINES: _read_lines, CSV: _read_csv, PLAIN: _whole_text}[media.name](text)
    if isinstance(inputs, payload.Request):
        return inputs
    return payload.Request(inputs, {}, [])


def _too_many(what: str, most: int) -> RequestError:
    return RequestError("malformed", "the body has more than {} {}".format(most, what))


def _whole_text(text: str) -> str:
    return text


def _read_lines(text: str) -> payload.Request:
    """Each line a value, or a request of its own: `{"inputs": ...}` with the same parameters on every line."""
    if text.count("\n") > limits.ITEMS:
        raise _too_many("lines", limits.ITEMS)
    inputs: List[Any] = []
    parameters: Dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = payload.read_json(line.encode("utf-8"))
            if isinstance(value, dict) and "inputs" in value:
                one = payload.request(value)
                if inputs and one.parameters != parameters:
                    raise RequestError(
                        "unsupported_value", "its parameters differ from those of the lines before"
                    )
                value, parameters = one.inputs, one.parameters
        except RequestError as problem:
            raise RequestError(problem.kind, "line {}: {}".format(number, problem.message)) from None
        inputs.append(value)
    return payload.Request(inputs, parameters, [])


def _read_csv(text: str) -> List[Any]:
    """A list of inputs: the column `inputs`, or whole rows as objects, or the only column there is."""
    try:
        rows = _csv_rows(text)
    except csv.Error as problem:
        raise RequestError("malformed", "the body is not CSV: {}".format(problem)) from None
    if not rows:
        raise RequestError("malformed", "the body has no rows")
    header = [cell.strip() for cell in rows[0]]
    if header == ["inputs"]:
        return [row[0] for row in rows[1:]]
    if len(header) == 1:
        return [row[0] for row in rows]
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise RequestError(
                "malformed", "row {} has {} cells, the header {}".format(number, len(row), len(header))
            )
    return [dict(zip(header, row)) for row in rows[1:]]


def _csv_rows(text: str) -> List[List[str]]:
    rows: List[List[str]] = []
    for row in csv.reader(io.StringIO(text), strict=True):
        if len(row) > limits.CSV_COLUMNS:
            raise _too_many("columns", limits.CSV_COLUMNS)
        if row:
            rows.append(row)
        if len(rows) > limits.ITEMS:
            raise _too_many("rows", limits.ITEMS)
    return rows


def _read_npy(body: bytes) -> Any:
    import numpy

    try:
        _check_npy_header(body)
        # A pickle runs code when it is read: never from a request.
        array = numpy.load(io.BytesIO(body), allow_pickle=False)
        value = array.tolist()
    except (MemoryError, RequestError):
        raise
    except Exception as problem:  # numpy raises many kinds for a broken header
        raise RequestError("malformed", "the body is not an .npy array: {}".format(problem)) from None
    payload.check_value(value)
    return value


def _check_npy_header(body: bytes) -> None:
    """Refuse an array that is larger than its body, or that is many more lists than numbers."""
    from numpy.lib import format as npy

    stream = io.BytesIO(body)
    version = npy.read_magic(stream)
    width = 2 if version == (1, 0) else 4
    if int.from_bytes(body[stream.tell() : stream.tell() + width], "little") > limits.NPY_HEADER:
        raise _too_many("bytes of .npy header", limits.NPY_HEADER)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, kind = read(stream)
    if kind.kind not in "biufUS" or not kind.itemsize:
        raise RequestError("malformed", "an .npy array must hold numbers or text, not {}".format(kind))
    size = lists = 1
    for length in shape:
        lists += size
        size *= max(1, length)
    if size * kind.itemsize > len(body):
        raise RequestError(
            "malformed", "the body is smaller than the shape in its .npy header: {}".format(str(shape)[:100])
        )
    if lists > limits.CONTAINERS:
        raise _too_many("lists", limits.CONTAINERS)


def write(value: Any, accept: str) -> bytes:
    """A prediction in the type that was agreed on; 406 when it has no form in that type."""
    if accept == JSON:
        return payload.write_json(value)
    if accept == JSON_LINES:
        return b"".join(payload.write_json(row) + b"\n" for row in _rows(value))
    if accept == PLAIN:
        return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode("utf-8")
    if accept == CSV:
        return _write_csv(value)
    return _write_npy(value)


def _rows(value: Any) -> List[Any]:
    return value if isinstance(value, list) else [value]


def _write_csv(value: Any) -> bytes:
    rows = _rows(value)
    while rows and isinstance(rows[0], list) and isinstance(rows[0][0] if rows[0] else None, (dict, list)):
        rows = [inner for row in rows for inner in row]
    out = io.StringIO()
    if rows and all(isinstance(row, dict) for row in rows):
        names = list(rows[0])
        table = csv.writer(out, lineterminator="\n")
        table.writerow(names)
        table.writerows([row.get(name) for name in names] for row in rows)
    else:
        csv.writer(out, lineterminator="\n").writerows(
            row if isinstance(row, list) else [row] for row in rows
        )
    return out.getvalue().encode("utf-8")


def _write_npy(value: Any) -> bytes:
    import numpy

    try:
        array = numpy.asarray(value)
    except ValueError:
        array = numpy.asarray(None)
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise RequestError("not_acceptable", "this answer is no array of numbers; ask for {}".format(JSON))
    out = io.BytesIO()
    numpy.save(out, array, allow_pickle=False)
    return out.getvalue()
