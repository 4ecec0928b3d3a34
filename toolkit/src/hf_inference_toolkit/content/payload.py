"""JSON bodies and the request in them."""

import codecs
import difflib
import json
import math
import re
import sys
from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple, Type

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import Parameters
from hf_inference_toolkit.errors import RequestError

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment,unused-ignore]

DEEPEST = 64
# Strings, which may contain brackets, and brackets.
_BRACKETS = re.compile(r'"(?:[^"\\]+|\\.)*"?|[][{}]', re.DOTALL)
# An integer with more digits needs more than 64 bits: JSON has no leading zeros.
MOST_DIGITS = 20
# Names of UTF-8 in Content-Type, in lower case.
UTF8 = ("utf-8", "utf8")
# The decoders of these charsets take quadratic time: 25 MB would take hours.
SLOW_CHARSETS = ("idna", "punycode")
KNOWN_KEYS = ("inputs", "parameters", "instances", "stream", "options")
# Inputs of several parts, which may also be at the top level, without "inputs".
PARTS = (
    ("question", "context"),
    ("query", "table"),
    ("text", "text_pair"),
    ("source_sentence", "sentences"),
    ("query", "texts"),
)
# Options of the hosted inference API. They have no effect here.
OPTIONS = ("use_cache", "wait_for_model", "use_gpu")
# The whitespace of RFC 8259.
WHITESPACE = " \t\r\n"
# An example in SageMaker's documentation has this spelling, and users copy it.
DOCUMENTED_MISSPELLING = "paramters"


class Request(NamedTuple):
    """The inputs and parameters of a prediction.

    `is_vertex`: the body has "instances", and the answer "predictions". `is_stream`: the answer is streamed.
    """

    inputs: object
    parameters: Parameters
    warnings: List[str]
    is_vertex: bool = False
    is_stream: bool = False
    # The adapter of HF_ADAPTERS that predicts; None is the base model.
    adapter: Optional[str] = None


def read_json(body: bytes, charset: Optional[str] = None) -> object:
    """Parse a JSON body. Line breaks in strings are accepted; NaN and lone surrogates are refused."""
    if len(body) > limits.CONTAINERS and body.count(b"[") + body.count(b"{") > limits.CONTAINERS:
        raise too_many("lists and objects", limits.CONTAINERS)
    value = _fast(body) if (charset or "utf-8").lower() in UTF8 else _MISS
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
    """A float that may be an integer of more than 64 bits: orjson rounds those, the json module does not."""


def _fast(body: bytes) -> object:
    # Searching the body for long numbers first would hold the GIL.
    try:
        return orjson.loads(body) if orjson else _MISS
    except ValueError:
        # The json module accepts control characters in strings, and reports the location of errors.
        return _MISS


def _lenient(text: str) -> object:
    if sys.version_info < (3, 9):
        check_depth(text)
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


def check_depth(text: str) -> None:
    """Refuse what is nested too deeply without parsing it.

    Before Python 3.9 a finalizer or a callback of the garbage collector that runs at the recursion limit of the json
    module ends the process: "Cannot recover from stack overflow". Remove this when no image has Python 3.8 or older.
    """
    if text.count("[") + text.count("{") <= DEEPEST:
        return
    depth = 0
    for found in _BRACKETS.finditer(text):
        if found.group() in "[{":
            depth += 1
            if depth > DEEPEST:
                raise _too_deep()
        elif found.group() in "]}":
            depth -= 1


def is_json(text: str) -> bool:
    """Whether a text is exactly one JSON value."""
    try:
        _lenient(text)
    except RequestError:
        return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError("{} is not a JSON value".format(name))


def _integer(digits: str) -> int:
    """Parse an integer. Python's `int` takes quadratic time."""
    return int(digits) if len(digits) <= MOST_DIGITS else 2**64


def too_many(what: str, most: int) -> RequestError:
    """The error for a body above one of the limits."""
    return RequestError("malformed", "the body has more than {} {}".format(most, what))


def _too_deep() -> RequestError:
    return RequestError("malformed", "the body is nested deeper than {} levels".format(DEEPEST))


def decode(body: bytes, charset: Optional[str]) -> str:
    """Decode a body. Without a charset, it is UTF-16 if it has that byte order mark, otherwise UTF-8."""
    # PowerShell and Excel write UTF-16 with a byte order mark.
    encoding = charset or ("utf-16" if body[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8")
    try:
        name = codecs.lookup(encoding).name
        if name in SLOW_CHARSETS:
            raise LookupError
        return body.decode("utf-8-sig" if name == "utf-8" else encoding)
    except LookupError:
        raise RequestError(
            "unsupported_media_type", "charset {!r} is not known".format(encoding[:100])
        ) from None
    except (UnicodeError, ValueError):
        raise RequestError("malformed", "the body is not {} text".format(encoding)) from None


def check_value(value: object, unsure: Optional[Type[Exception]] = None) -> None:
    """Refuse infinities, integers of more than 64 bits, lone surrogates and deep nesting.

    `unsure` is raised for a float that may have been an integer of more than 64 bits.
    """
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _checked(outer, unsure)]
        if not level:
            return
    raise _too_deep()


def _checked(value: object, unsure: Optional[Type[Exception]]) -> Iterable[object]:
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
            "malformed", "a string in the body contains a lone surrogate, which is not a character"
        ) from None


def request(document: object, root: Tuple[str, ...] = ()) -> Request:
    """The request in a JSON document: `{"inputs": ..., "parameters": {...}}`, or Vertex AI's `instances`.

    Parameters whose names are in `root` may be at the top level.
    """
    if not isinstance(document, dict):
        raise RequestError(
            "malformed",
            'the body must be an object such as {{"inputs": ...}}, not {}; send several inputs as a list: '
            '{{"inputs": [...]}}'.format(kind_of(document)),
        )
    document, warnings = _corrected(document)
    document = _with_inputs(document)
    _check_options(document.get("options"))
    known = (*KNOWN_KEYS, *root)
    for key in document:
        if key not in known:
            raise RequestError("unsupported_value", unknown("key", key, known))
    if ("inputs" in document) == ("instances" in document):
        raise RequestError(
            "malformed", 'the body must have "inputs" (or, on Vertex AI, "instances", not both)'
        )
    parameters = document.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise RequestError("malformed", '"parameters" must be an object, not {}'.format(kind_of(parameters)))
    parameters = _with_root(parameters, document, root)
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


def _with_root(parameters: Parameters, document: Dict[str, object], root: Tuple[str, ...]) -> Parameters:
    """Add the parameters at the top level. RequestError if one is in "parameters", too."""
    given = {name: document[name] for name in root if document.get(name) is not None}
    for name in given:
        if parameters.get(name) is not None:
            raise RequestError(
                "unsupported_value", "'{}' is both in \"parameters\" and beside it".format(name)
            )
    return dict(parameters, **given) if given else parameters


def is_request(document: Dict[str, object]) -> bool:
    """Whether an object is a request rather than an input."""
    return "inputs" in document or "inputs" in _with_inputs(document)


def _with_inputs(document: Dict[str, object]) -> Dict[str, object]:
    """Move the parts of an input at the top level into "inputs"."""
    if "inputs" in document or "instances" in document:
        return document
    for parts in PARTS:
        if all(part in document for part in parts):
            others = {key: value for key, value in document.items() if key not in parts}
            return dict(others, inputs={part: document[part] for part in parts})
    return document


def _check_options(options: object) -> None:
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


def _corrected(document: Dict[str, object]) -> Tuple[Dict[str, object], List[str]]:
    if DOCUMENTED_MISSPELLING not in document:
        return document, []
    if "parameters" in document:
        raise RequestError("malformed", 'the body has both "parameters" and "paramters": keep "parameters"')
    renamed = {
        ("parameters" if key == DOCUMENTED_MISSPELLING else key): value for key, value in document.items()
    }
    return renamed, ['"paramters" was read as "parameters"; correct the spelling']


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """A message such as `unknown key 'inptus' (did you mean 'inputs'?); known: inputs, parameters`."""
    names = sorted(known)
    near = difflib.get_close_matches(name[:100], names, n=1, cutoff=0.5)
    hint = " (did you mean '{}'?)".format(near[0]) if near else ""
    return "unknown {} '{}'{}; known: {}".format(what, name[:100], hint, ", ".join(names) or "none")


def kind_of(value: object) -> str:
    """The type of a JSON value in words, for messages."""
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


def is_small(value: object, most: int = 200) -> bool:
    """Whether a value can be checked or serialized on the event loop: it has few, short parts and no arrays."""
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


def write_json(value: object) -> bytes:
    """Compact UTF-8 JSON, with null for NaN. TypeError or ValueError if the value has no JSON form."""
    if orjson is not None:
        try:
            return bytes(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS))
        except TypeError:
            pass  # sets, integers of more than 64 bits, objects that _plain converts
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain)
        return text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate: written as an escape sequence
        return json.dumps(value, separators=(",", ":"), allow_nan=False, default=_plain).encode("ascii")
    except (TypeError, ValueError):  # NaN or an infinity; keys that are NumPy numbers
        return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False).encode("ascii")


def _finite(value: object, depth: int = 0) -> object:
    """The value in JSON's types, with None for NaN and infinities."""
    if depth > 500:
        raise ValueError("the answer is nested too deeply, or contains itself")
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_key(key): _finite(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner, depth + 1) for inner in value]
    return _finite(_plain(value), depth + 1)


def _key(key: object) -> object:
    if hasattr(key, "item"):
        key = key.item()
    return "null" if isinstance(key, float) and not math.isfinite(key) else key


def _plain(value: object) -> object:
    for method in ("tolist", "to_dict", "isoformat"):
        if hasattr(value, method):
            return getattr(value, method)()
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    raise TypeError("{} has no JSON form".format(type(value).__name__))
