"""The parameters of requests: types, limits, checks and JSON Schema."""

import re
from typing import Dict, Iterable, Mapping, NamedTuple, Optional, Sequence

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import JsonObject, Options, Parameters
from hf_inference_toolkit.content.payload import kind_of, unknown
from hf_inference_toolkit.errors import RequestError


class Parameter(NamedTuple):
    """One parameter. `kind` is a key of SCHEMAS.

    `is_nullable`: null is a value. For any other parameter, null means not given.
    """

    name: str
    kind: str
    about: str
    low: Optional[float] = None
    high: Optional[float] = None
    choices: Sequence[str] = ()
    is_nullable: bool = False
    # The members of an object.
    members: Sequence["Parameter"] = ()
    # The maximum characters of a string, and the maximum entries of a list.
    longest: int = limits.SHORT_TEXT
    most: int = limits.TOKEN_IDS


TRUNCATION = Parameter(
    "truncation",
    "boolean or string",
    "truncate inputs above the model's limit or max_length: true (the default), false, or a strategy "
    "for pairs of texts",
    choices=("longest_first", "only_first", "only_second", "do_not_truncate"),
)
TRUNCATION_DIRECTION = Parameter(
    "truncation_direction",
    "string",
    "the side at which a text is truncated; by default that of the model's tokenizer",
    choices=("left", "right"),
)
# Parameters that pipelines pass to the tokenizer.
TOKENIZING = (
    TRUNCATION,
    Parameter("max_length", "integer", "maximum tokens of an input, which is truncated", 1),
    Parameter(
        "padding",
        "boolean or string",
        "max_length pads inputs to max_length; other values have no effect on a single input",
        choices=("longest", "max_length", "do_not_pad"),
    ),
)
FUNCTION = Parameter(
    "function_to_apply",
    "string",
    "function from logits to scores",
    choices=("softmax", "sigmoid", "none", "default"),
)
FULL_TEXT = Parameter(
    "return_full_text", "boolean", "whether the prompt is part of the answer; true by default"
)
SCHEMAS: Dict[str, JsonObject] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "string": {"type": "string"},
    "boolean or string": {"oneOf": [{"type": "boolean"}, {"type": "string"}]},
    "object": {"type": "object", "additionalProperties": False},
    "strings": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    "ids": {"oneOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}, "minItems": 1}]},
    "numbers by id": {
        "type": "object",
        "propertyNames": {"pattern": "^[0-9]+$"},
        "additionalProperties": {"type": "number"},
    },
    "grammar": {
        "type": "object",
        "required": ["type", "value"],
        "properties": {"type": {"enum": ["json", "json_schema", "regex"]}, "value": {}},
        "additionalProperties": False,
    },
    "id lists": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
        "minItems": 1,
    },
}


def aliased(given: Mapping[str, object], names: Mapping[str, str]) -> Parameters:
    """The parameters with other names replaced. RequestError if one is given by both of its names."""
    found = dict(given)
    for other, name in names.items():
        value = found.pop(other, None)
        if value is not None:
            if found.get(name) is not None:
                raise RequestError(
                    "unsupported_value", "'{}' and '{}' are the same parameter: send one".format(other, name)
                )
            found[name] = value
    return found


def check(given: Mapping[str, object], known: Sequence[Parameter]) -> Options:
    """The parameters that are not null. RequestError for an unknown name or an invalid value."""
    by_name = {parameter.name: parameter for parameter in known}
    checked = {}
    for name, value in given.items():
        if name not in by_name:
            raise RequestError("unsupported_value", unknown("parameter", name, by_name), param=name[:100])
        parameter = by_name[name]
        if value is None and not parameter.is_nullable:
            continue
        try:
            _check_one(parameter, value)
        except RequestError as error:
            error.param = name
            raise
        if isinstance(value, dict) and parameter.kind == "object":
            value = check(value, parameter.members)
        checked[name] = value
    return checked


def _check_one(parameter: Parameter, value: object) -> None:
    if value is None:
        return
    if not _is(value, parameter.kind):
        raise RequestError(
            "unsupported_value",
            "parameter '{}' must be {}, not {}".format(parameter.name, _words(parameter), kind_of(value)),
        )
    if parameter.choices and not isinstance(value, bool) and value not in parameter.choices:
        raise RequestError(
            "unsupported_value", "parameter '{}' must be {}".format(parameter.name, _words(parameter))
        )
    numbers: Iterable[object] = [value]
    if isinstance(value, dict) and parameter.kind == "numbers by id":
        numbers = value.values()
    if not all(_within(one, parameter) for one in numbers if isinstance(one, (int, float))):
        raise RequestError(
            "unsupported_value", "parameter '{}' must be {}".format(parameter.name, _words(parameter))
        )
    _check_size(parameter, value)


def _check_size(parameter: Parameter, value: object) -> None:
    """RequestError for strings that are too long and lists with too many entries."""
    if isinstance(value, str) and len(value) > parameter.longest:
        raise RequestError(
            "unsupported_value",
            "parameter '{}' has {} characters; at most {} are allowed".format(
                parameter.name, len(value), parameter.longest
            ),
        )
    if isinstance(value, (list, dict)):
        if len(value) > parameter.most:
            raise RequestError(
                "unsupported_value",
                "parameter '{}' has {} entries; at most {} are allowed".format(
                    parameter.name, len(value), parameter.most
                ),
            )
        for inner in value:
            _check_size(parameter, inner)


def _within(value: float, parameter: Parameter) -> bool:
    return not (
        (parameter.low is not None and value < parameter.low)
        or (parameter.high is not None and value > parameter.high)
    )


def _is(value: object, kind: str) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "string":
        return isinstance(value, str)
    if kind == "boolean or string":
        return isinstance(value, (bool, str))
    if isinstance(value, dict):
        return _is_object(value, kind)
    if kind == "strings":
        return value == [] or isinstance(value, str) or _is_list_of(value, "string")
    if kind == "ids":
        return _is(value, "integer") or _is_list_of(value, "integer")
    return isinstance(value, list) and bool(value) and all(_is_list_of(inner, "integer") for inner in value)


def _is_object(value: Mapping[str, object], kind: str) -> bool:
    if kind == "numbers by id":
        return all(
            re.match(r"[0-9]+\Z", name) is not None and _is(number, "number")
            for name, number in value.items()
        )
    return kind == "object" or (kind == "grammar" and _is_grammar(value))


def _is_grammar(value: Mapping[str, object]) -> bool:
    if set(value) != {"type", "value"} or value["type"] not in ("json", "json_schema", "regex"):
        return False
    return isinstance(value["value"], (str,) if value["type"] == "regex" else (dict, str))


def _is_list_of(value: object, kind: str) -> bool:
    return isinstance(value, list) and bool(value) and all(_is(inner, kind) for inner in value)


def _words(parameter: Parameter) -> str:
    if parameter.choices:
        start = "true, false or " if parameter.kind == "boolean or string" else ""
        return start + "one of " + ", ".join(parameter.choices)
    names = {
        "object": "an object",
        "boolean": "true or false",
        "integer": "a whole number",
        "number": "a number",
        "string": "a string",
        "boolean or string": "true, false or a string",
        "strings": "a string or a list of strings",
        "ids": "a token id or a list of token ids",
        "id lists": "a list of lists of token ids",
        "grammar": 'an object {"type": "json" or "regex", "value": ...}',
        "numbers by id": "an object with token ids as keys and numbers as values",
    }
    words = names[parameter.kind]
    if parameter.low is not None:
        words += " from {:g}".format(parameter.low)
    if parameter.high is not None:
        words += " to {:g}".format(parameter.high)
    return words + (" or null" if parameter.is_nullable else "")


def schema(known: Sequence[Parameter]) -> JsonObject:
    """JSON Schema of an object with these parameters and no others."""
    return {
        "type": "object",
        "properties": {parameter.name: _schema_of(parameter) for parameter in known},
        "additionalProperties": False,
    }


def _schema_of(parameter: Parameter) -> JsonObject:
    if parameter.kind == "object":
        out = dict(schema(parameter.members), description=parameter.about)
    else:
        out = dict(SCHEMAS[parameter.kind], description=parameter.about)
    bounds = [("minimum", parameter.low), ("maximum", parameter.high)]
    bounded = out
    if parameter.kind == "numbers by id":
        bounded = out["additionalProperties"] = dict(out["additionalProperties"])
    bounded.update({word: bound for word, bound in bounds if bound is not None})
    if parameter.choices and parameter.kind == "boolean or string":
        out["oneOf"] = [{"type": "boolean"}, {"type": "string", "enum": list(parameter.choices)}]
    elif parameter.choices:
        out["enum"] = list(parameter.choices)
    if parameter.is_nullable:
        out["nullable"] = True
    return out
