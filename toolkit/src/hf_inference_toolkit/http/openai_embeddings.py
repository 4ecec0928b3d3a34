"""Embeddings of OpenAI's API: requests and answers."""

import array
import base64
import sys
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

from hf_inference_toolkit.annotations import JsonObject, Parameters
from hf_inference_toolkit.content.payload import Request, kind_of
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.http.openai_requests import ACCEPTED, ANY, MODEL, checked
from hf_inference_toolkit.tasks.parameters import Parameter
from hf_inference_toolkit.tasks.parameters import schema as schema_of
from hf_inference_toolkit.tasks.service import Prediction, Service

FORMATS = ("float", "base64")
KNOWN = (
    MODEL,
    Parameter("input", "prompt", "a text, its token ids, or a list of either"),
    Parameter(
        "encoding_format", "string", "base64: little-endian float32; float by default", choices=FORMATS
    ),
    Parameter("dimensions", "integer", "shorten the vectors; normalized vectors are normalized again", 1),
    # Of this server.
    Parameter("prompt_name", "string", "the prompt of the model before each text"),
)


class Query(NamedTuple):
    """A request in OpenAI's form."""

    request: Request
    is_base64: bool


def read(document: object, service: Service, adapter: Callable[[Service, str], Optional[str]]) -> Query:
    """The checked request in a JSON document. RequestError with the name of the parameter that is wrong.

    `adapter` returns the adapter that a model's name stands for.
    """
    if not isinstance(document, dict):
        raise RequestError("malformed", "the body must be a JSON object, not {}".format(kind_of(document)))
    given = checked(document, KNOWN, ACCEPTED)
    options: Parameters = {name: given[name] for name in ("dimensions", "prompt_name") if name in given}
    model = str(given.get("model", ""))
    request = Request(_inputs(given), options, [], adapter=adapter(service, model))
    try:
        service.check(request)
    except RequestError as error:
        raise _named(error) from None
    return Query(request, given.get("encoding_format") == "base64")


def _inputs(given: JsonObject) -> List[object]:
    value = given.get("input")
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
        value = [value]
    if not isinstance(value, list) or not value:
        raise _of_input("'input' must be a text, a list of token ids, or a list of either that is not empty")
    for place, one in enumerate(value):
        if not isinstance(one, (str, list)):
            raise _of_input(
                "'input[{}]' must be a text or a list of token ids, not {}".format(place, kind_of(one))
            )
        if not one:
            raise _of_input(
                "'input' is empty" if value is not given["input"] else "'input[{}]' is empty".format(place)
            )
    return value


def _of_input(message: str) -> RequestError:
    return RequestError("unsupported_value", message, param="input")


def _named(error: RequestError) -> RequestError:
    """An error of the task by the name that the parameter has in this API."""
    error.param = error.param or "input"
    if error.message.startswith("inputs["):
        error.message = error.message.replace("inputs[", "input[", 1)
    return error


def answer(query: Query, model: str, prediction: Prediction) -> JsonObject:
    """The answer, as OpenAI writes it."""
    data = [
        {"object": "embedding", "index": place, "embedding": _packed(vector) if query.is_base64 else vector}
        for place, vector in enumerate(prediction.value)
    ]
    tokens = prediction.tokens_in
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _packed(vector: Sequence[float]) -> str:
    numbers = array.array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def schema() -> JsonObject:
    """JSON Schema of a request."""
    properties: JsonObject = dict(schema_of([one for one in KNOWN if one.name != "input"])["properties"])
    properties["input"] = {
        "oneOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {}}],
        "description": next(one.about for one in KNOWN if one.name == "input"),
    }
    for name, values in ACCEPTED.items():
        limited: Dict[str, object] = {} if ANY in values else {"enum": [*values, None]}
        properties[name] = dict(limited, description="no effect")
    return {
        "type": "object",
        "required": ["input"],
        "properties": properties,
        "additionalProperties": False,
    }
