"""`parameters` of a request: which there are, what each takes, and what is said about the rest."""

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from hf_inference_toolkit.content.payload import kind_of, unknown
from hf_inference_toolkit.errors import RequestError


class Parameter(NamedTuple):
    """One parameter: its JSON kind (boolean, integer, number, string, strings, id lists), its range, its meaning."""

    name: str
    kind: str
    about: str
    low: Optional[float] = None
    high: Optional[float] = None
    choices: Sequence[str] = ()
    is_nullable: bool = False


TRUNCATION = Parameter(
    "truncation", "boolean", "cut inputs that are longer than the model takes; true by default"
)
FUNCTION = Parameter(
    "function_to_apply",
    "string",
    "what makes scores of the model's numbers",
    choices=("softmax", "sigmoid", "none", "default"),
)
FULL_TEXT = Parameter(
    "return_full_text", "boolean", "whether the prompt is part of the answer; true by default"
)
SCHEMAS: Dict[str, Dict[str, Any]] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "string": {"type": "string"},
    "strings": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
    "ids": {"oneOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}, "minItems": 1}]},
    "id lists": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
        "minItems": 1,
    },
}


def check(given: Mapping[str, Any], known: Sequence[Parameter]) -> Dict[str, Any]:
    """The parameters as given, once each is known and has a value of its kind and range; else a 400."""
    by_name = {parameter.name: parameter for parameter in known}
    for name, value in given.items():
        if name not in by_name:
            raise RequestError("unsupported_value", unknown("parameter", name, by_name))
        _check_one(by_name[name], value)
    return dict(given)


def _check_one(parameter: Parameter, value: Any) -> None:
    if value is None and parameter.is_nullable:
        return
    if not _is(value, parameter.kind):
        raise RequestError(
            "unsupported_value",
            "parameter '{}' must be {}, not {}".format(parameter.name, _words(parameter), kind_of(value)),
        )
    if parameter.choices and value not in parameter.choices:
        raise RequestError(
            "unsupported_value", "parameter '{}' must be {}".format(parameter.name, _words(parameter))
        )
    if isinstance(value, (int, float)) and not _within(value, parameter):
        raise RequestError(
            "unsupported_value", "parameter '{}' must be {}".format(parameter.name, _words(parameter))
        )


def _within(value: float, parameter: Parameter) -> bool:
    return not (
        (parameter.low is not None and value < parameter.low)
        or (parameter.high is not None and value > parameter.high)
    )


def _is(value: Any, kind: str) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "string":
        return isinstance(value, str)
    if kind == "strings":
        return isinstance(value, str) or _is_list_of(value, "string")
    if kind == "ids":
        return _is(value, "integer") or _is_list_of(value, "integer")
    return isinstance(value, list) and bool(value) and all(_is_list_of(inner, "integer") for inner in value)


def _is_list_of(value: Any, kind: str) -> bool:
    return isinstance(value, list) and bool(value) and all(_is(inner, kind) for inner in value)


def _words(parameter: Parameter) -> str:
    if parameter.choices:
        return "one of " + ", ".join(parameter.choices)
    names = {
        "boolean": "true or false",
        "integer": "a whole number",
        "number": "a number",
        "string": "a string",
        "strings": "a string or a list of strings",
        "ids": "a token id or a list of them",
        "id lists": "a list of lists of token ids",
    }
    words = names[parameter.kind]
    if parameter.low is not None:
        words += " from {:g}".format(parameter.low)
    if parameter.high is not None:
        words += " to {:g}".format(parameter.high)
    return words + (" or null" if parameter.is_nullable else "")


def schema(known: Sequence[Parameter]) -> Dict[str, Any]:
    """JSON Schema of a task's parameters, with nothing beside them."""
    return {
        "type": "object",
        "properties": {parameter.name: _schema_of(parameter) for parameter in known},
        "additionalProperties": False,
    }


def _schema_of(parameter: Parameter) -> Dict[str, Any]:
    out = dict(SCHEMAS[parameter.kind], description=parameter.about)
    bounds = [("minimum", parameter.low), ("maximum", parameter.high)]
    out.update({word: bound for word, bound in bounds if bound is not None})
    if parameter.choices:
        out["enum"] = list(parameter.choices)
    if parameter.is_nullable:
        out["nullable"] = True
    return out


def names(known: Sequence[Parameter]) -> List[str]:
    """The names alone."""
    return [parameter.name for parameter in known]
