"""JSON bodies: read leniently where documented examples need it, strictly everywhere else."""

import codecs
import difflib
import json
import math
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Type

from hf_inference_toolkit import limits
from hf_inference_toolkit.errors import RequestError

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment,unused-ignore]

DEEPEST = 64
# More digits are more than 64 bits, whatever they are, unless they are leading zeros, which JSON has not.
MOST_DIGITS = 20
# Decoding 25 MB of these takes hours.
SLOW_CHARSETS = ("idna", "punycode")
KNOWN_KEYS = ("inputs", "parameters", "instances", "stream", "options")
# Inputs of several parts, which clients also send without "inputs" around them.
PARTS = (("question", "context"), ("query", "table"), ("text", "text_pair"))
# The hosted inference API had these options. Whatever their value, they ask for nothing that this server lacks.
OPTIONS = ("use_cache", "wait_for_model", "use_gpu")
# What JSON has for whitespace.
WHITESPACE = " \t\r\n"
# A request in the reference document spells it so, and users copy it.
DOCUMENTED_MISSPELLING = "paramters"


class Request(NamedTuple):
    """What a prediction is made from.

    `is_vertex`: it came as instances, and wants predictions. `is_stream`: its text is wanted while it is written.
    """

    inputs: Any
    parameters: Dict[str, Any]
    warnings: List[str]
    is_vertex: bool = False
    is_stream: bool = False


def read_json(body: bytes, charset: Optional[str] = None) -> Any:
    """The value of a JSON body. Line breaks inside strings are accepted; NaN and lone surrogates are not."""
    if len(body) > limits.CONTAINERS and body.count(b"[") + body.count(b"{") > limits.CONTAINERS:
        raise too_many("lists and objects", limits.CONTAINERS)
    value = _fast(body) if charset in (None, "utf-8") else _MISS
    if value is not _MISS:
        try:
            check_value(value, _RoundedError)
        except _RoundedError:
            pass
        else:
            return value
    value = _lenient(decode(body, charset))
    check_value(value)
    return value


_MISS = object()


class _RoundedError(Exception):
    """orjson makes floats of integers that need more than 64 bits: the slow reader tells which they were."""


def _fast(body: bytes) -> Any:
    # A search for long numbers in the body would keep every other thread waiting while it lasts.
    try:
        return orjson.loads(body) if orjson else _MISS
    except ValueError:
        # Control characters in strings, and every real mistake: the slow reader accepts the ones and names the others.
        return _MISS


def _lenient(text: str) -> Any:
    try:
        return json.loads(text, strict=False, parse_constant=_refuse_constant, parse_int=_integer)
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as problem:
        raise RequestError(
            "malformed",
            "the body is not JSON: {} at line {} column {}".format(
                problem.msg, problem.lineno, problem.colno
            ),
        ) from None
    except ValueError as problem:
        raise RequestError("malformed", "the body is not JSON: {}".format(problem)) from None


def is_json(text: str) -> bool:
    """Whether a text is one JSON value."""
    try:
        _lenient(text)
    except RequestError:
        return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError("{} is not a JSON value".format(name))


def _integer(digits: str) -> int:
    """An integer; the time that Python takes grows with the square of its digits."""
    return int(digits) if len(digits) <= MOST_DIGITS else 2**64


def too_many(what: str, most: int) -> RequestError:
    """The error for a body that holds more of something than it may."""
    return RequestError("malformed", "the body has more than {} {}".format(most, what))


def _too_deep() -> RequestError:
    return RequestError("malformed", "the body is nested deeper than {} levels".format(DEEPEST))


def decode(body: bytes, charset: Optional[str]) -> str:
    """The text of a body; by its byte order mark, and UTF-8 without one, when no charset is named."""
    # PowerShell and Excel write UTF-16 with a mark.
    encoding = charset or ("utf-16" if body[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8")
    try:
        if codecs.lookup(encoding).name in SLOW_CHARSETS:
            raise LookupError
        return body.decode("utf-8-sig" if encoding.lower().replace("_", "-") == "utf-8" else encoding)
    except LookupError:
        raise RequestError("unsupported_media_type", "charset {!r} is not known".format(encoding)) from None
    except (UnicodeError, ValueError):
        raise RequestError("malformed", "the body is not {} text".format(encoding)) from None


def check_value(value: Any, unsure: Optional[Type[Exception]] = None) -> None:
    """Refuse what no model and no JSON answer can hold: infinities, 65-bit integers, lone surrogates, deep nests.

    `unsure` is raised, where it is given, for a float that may have been such an integer.
    """
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _checked(outer, unsure)]
        if not level:
            return
    raise _too_deep()


def _checked(value: Any, unsure: Optional[Type[Exception]]) -> Iterable[Any]:
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, float):
        if unsure and abs(value) >= 2**63:
            raise unsure
        if not math.isfinite(value):
            raise RequestError("malformed", "a number in the body is NaN, infinite or too large for 64 bits")
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise RequestError("malformed", "a number in the body is too large for 64 bits")
    elif isinstance(value, dict):
        for key in value:
            _check_text(key)
        return value.values()
    elif isinstance(value, list):
        return value
    return ()


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(
            "malformed", "a string in the body holds a lone surrogate, which is no character"
        ) from None


def request(document: Any) -> Request:
    """A request from the body's JSON value: `{"inputs": ..., "parameters": {...}}` or Vertex AI's `instances`."""
    if not isinstance(document, dict):
        raise RequestError(
            "malformed",
            'the body must be an object such as {{"inputs": ...}}, not {}; several inputs go into a list: '
            '{{"inputs": [...]}}'.format(kind_of(document)),
        )
    document, warnings = _corrected(document)
    document = _with_inputs(document)
    _check_options(document.get("options"))
    for key in document:
        if key not in KNOWN_KEYS:
            raise RequestError("unsupported_value", unknown("key", key, KNOWN_KEYS))
    if ("inputs" in document) == ("instances" in document):
        raise RequestError(
            "malformed", 'the body must have "inputs" (or, on Vertex AI, "instances", not both)'
        )
    parameters = document.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise RequestError("malformed", '"parameters" must be an object, not {}'.format(kind_of(parameters)))
    is_vertex = "instances" in document
    inputs = document["instances"] if is_vertex else document["inputs"]
    if is_vertex and not isinstance(inputs, list):
        raise RequestError("malformed", '"instances" must be a list, not {}'.format(kind_of(inputs)))
    is_stream = document.get("stream")
    if is_stream is None:
        is_stream = False
    if not isinstance(is_stream, bool):
        raise RequestError("malformed", '"stream" must be true or false, not {}'.format(kind_of(is_stream)))
    return Request(inputs, parameters, warnings, is_vertex, is_stream)


def is_request(document: Dict[str, Any]) -> bool:
    """Whether an object is a request, and not a value that could be an input."""
    return "inputs" in document or "inputs" in _with_inputs(document)


def _with_inputs(document: Dict[str, Any]) -> Dict[str, Any]:
    """The request with "inputs", where the parts of one input stand in their place."""
    if "inputs" in document or "instances" in document:
        return document
    for parts in PARTS:
        if all(part in document for part in parts):
            others = {key: value for key, value in document.items() if key not in parts}
            return dict(others, inputs={part: document[part] for part in parts})
    return document


def _check_options(options: Any) -> None:
    if options is None:
        return
    if not isinstance(options, dict):
        raise RequestError("malformed", '"options" must be an object, not {}'.format(kind_of(options)))
    for name, value in options.items():
        if name not in OPTIONS:
            raise RequestError("unsupported_value", unknown("option", name, OPTIONS))
        if value is not None and not isinstance(value, bool):
            raise RequestError(
                "unsupported_value", "option '{}' must be true or false, not {}".format(name, kind_of(value))
            )


def _corrected(document: Dict[str, Any]) -> Any:
    if DOCUMENTED_MISSPELLING not in document:
        return document, []
    if "parameters" in document:
        raise RequestError("malformed", 'the body has both "parameters" and "paramters": keep "parameters"')
    renamed = {
        ("parameters" if key == DOCUMENTED_MISSPELLING else key): value for key, value in document.items()
    }
    return renamed, ['"paramters" was read as "parameters", which is the right spelling']


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """`unknown key 'inptus' (did you mean 'inputs'?); known: inputs, parameters`."""
    names = sorted(known)
    near = difflib.get_close_matches(name[:100], names, n=1, cutoff=0.5)
    hint = " (did you mean '{}'?)".format(near[0]) if near else ""
    return "unknown {} '{}'{}; known: {}".format(what, name[:100], hint, ", ".join(names) or "none")


def kind_of(value: Any) -> str:
    """A JSON value's kind in words, for messages."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
        bytes: "binary data",
    }
    return names.get(type(value), "a " + type(value).__name__)


def is_small(value: Any, most: int = 200) -> bool:
    """Whether an answer has so few parts, and so short ones, that writing it takes no time; arrays never are."""
    parts = [value]
    for part in parts:
        if isinstance(part, dict):
            parts.extend(part.values())
        elif isinstance(part, (list, tuple)):
            parts.extend(part[: most + 1])
        elif isinstance(part, (str, bytes)):
            parts.extend([None] * (len(part) // 50))
        elif not isinstance(part, (float, int, type(None))):
            return False
        if len(parts) > most:
            return False
    return True


def write_json(value: Any) -> bytes:
    """Compact UTF-8 JSON; TypeError or ValueError where the value holds what JSON has no form for. NaN is null."""
    if orjson is not None:
        try:
            return bytes(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS))
        except TypeError:
            pass  # sets, integers of more than 64 bits, objects with a form of their own
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain)
        return text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate: written as an escape sequence
        return json.dumps(value, separators=(",", ":"), allow_nan=False, default=_plain).encode("ascii")
    except (
        TypeError,
        ValueError,
    ):  # NaN and infinities, which JSON does not have; keys that are NumPy's numbers
        return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False).encode("ascii")


def _finite(value: Any, depth: int = 0) -> Any:
    """The value with None for NaN and infinities, made of JSON's types alone."""
    if depth > 500:
        raise ValueError("the answer is nested too deeply, or holds itself")
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_key(key): _finite(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner, depth + 1) for inner in value]
    return _finite(_plain(value), depth + 1)


def _key(key: Any) -> Any:
    if hasattr(key, "item"):
        key = key.item()
    return "null" if isinstance(key, float) and not math.isfinite(key) else key


def _plain(value: Any) -> Any:
    for method in ("tolist", "to_dict", "isoformat"):
        if hasattr(value, method):
            return getattr(value, method)()
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    raise TypeError("{} has no JSON form".format(type(value).__name__))
