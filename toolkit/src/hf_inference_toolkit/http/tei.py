"""The routes of text-embeddings-inference: /embed, /similarity, /rerank and /tokenize."""

import time
from typing import Dict, Sequence, Tuple

from starlette.requests import Request
from starlette.responses import Response

from hf_inference_toolkit.annotations import JsonObject, Parameters
from hf_inference_toolkit.content import codecs, payload
from hf_inference_toolkit.content.payload import kind_of, unknown
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.http.bodies import SMALL
from hf_inference_toolkit.http.invocations import Invocations
from hf_inference_toolkit.models.model import Model
from hf_inference_toolkit.tasks.service import Service

EMBED, SIMILARITY, RERANK, TOKENIZE = "/embed", "/similarity", "/rerank", "/tokenize"
ROUTES = (EMBED, SIMILARITY, RERANK, TOKENIZE)
TRUNCATING = ("truncate", "truncation_direction")
# The inputs and the parameters of each route, by the names in its body.
BODIES: Dict[str, Tuple[Sequence[str], Sequence[str]]] = {
    EMBED: (("inputs",), (*TRUNCATING, "normalize", "prompt_name", "dimensions")),
    SIMILARITY: (("inputs",), ("parameters",)),
    RERANK: (("query", "texts"), (*TRUNCATING, "raw_scores", "return_text")),
    TOKENIZE: (("inputs",), ("add_special_tokens", "prompt_name")),
}


class TextEmbeddingsInference:
    """The endpoints. Parameters are those of /invocations."""

    def __init__(self, invocations: Invocations, model: Model, deadline: float) -> None:
        self._invocations = invocations
        self._model = model
        self._deadline = deadline

    async def answer(self, request: Request) -> Response:
        """POST to any of the routes."""
        ends = time.monotonic() + self._deadline
        path = request.scope["path"]
        service = self._served(path)
        codecs.content_type(request.headers.get("content-type"))
        body = await self._invocations.receive(request, ends)
        prompt = await self._invocations.off_loop(len(body), lambda: _checked(service, path, body))
        prediction = await self._invocations.predict(service, prompt, request, ends)
        size = 0 if payload.is_small(prediction.value) else SMALL + 1
        content = await self._invocations.off_loop(size, lambda: payload.write_json(prediction.value))
        headers = {"Content-Type": codecs.JSON}
        if prediction.is_truncated:
            headers["X-Inputs-Truncated"] = "true"
        return Response(content, 200, headers)

    def _served(self, path: str) -> Service:
        """The service of a route. RequestError (404) for a model of another task."""
        service = self._model.serving()
        if path == TOKENIZE and service.tokenization is not None:
            return service.tokenization
        if (path == RERANK and service.ranks) or (path in (EMBED, SIMILARITY) and service.embeds):
            return service
        tasks = {RERANK: "text-ranking", TOKENIZE: "sentence-embeddings and text-ranking"}
        raise RequestError(
            "not_found",
            "{} is served by models of {}, and the task of this model is {}".format(
                path, tasks.get(path, "sentence-embeddings"), service.task
            ),
        )


def _checked(service: Service, path: str, body: bytes) -> payload.Request:
    prompt = payload.Request(*_read(path, payload.read_json(body)), [])
    service.check(prompt)
    return prompt


def _read(path: str, document: object) -> Tuple[object, Parameters]:
    """The inputs and the parameters in a body. RequestError for unknown and missing names."""
    if not isinstance(document, dict):
        raise RequestError("malformed", "the body must be an object, not {}".format(kind_of(document)))
    inputs, known = BODIES[path]
    for name in document:
        if name not in inputs and name not in known:
            raise RequestError("unsupported_value", unknown("key", name, [*inputs, *known]), param=name[:100])
    for name in inputs:
        if document.get(name) is None:
            raise RequestError("malformed", "'{}' is missing".format(name), param=name)
    options: Parameters = {name: document[name] for name in known if document.get(name) is not None}
    if path == SIMILARITY:
        options = _inner(options.get("parameters"))
    if isinstance(options.get("truncation_direction"), str):
        options["truncation_direction"] = str(options["truncation_direction"]).lower()
    if path == RERANK:
        return {name: document[name] for name in inputs}, options
    return _inputs(path, document["inputs"]), _with_defaults(path, options)


def _inputs(path: str, inputs: object) -> object:
    """Texts as a list: an answer has a vector or tokens for each. Texts of /embed must not be empty."""
    if path == SIMILARITY:
        if not isinstance(inputs, dict):
            raise RequestError(
                "unsupported_value",
                '\'inputs\' must be {"source_sentence": "...", "sentences": ["...", ...]}',
            )
        return inputs
    if isinstance(inputs, str) or (isinstance(inputs, list) and inputs and isinstance(inputs[0], int)):
        inputs = [inputs]
    if not isinstance(inputs, list):
        raise RequestError(
            "unsupported_value", "'inputs' must be a text or a list, not {}".format(kind_of(inputs))
        )
    for place, one in enumerate(inputs):
        if path == EMBED and (not isinstance(one, (str, list)) or not one):
            what = "is empty" if one in ("", []) else "must be a text or a list of token ids"
            raise RequestError("unsupported_value", "'inputs[{}]' {}".format(place, what))
    return inputs


def _inner(parameters: object) -> Parameters:
    if parameters is not None and not isinstance(parameters, dict):
        raise RequestError("malformed", "'parameters' must be an object, not {}".format(kind_of(parameters)))
    return dict(parameters or {})


def _with_defaults(path: str, options: Parameters) -> Parameters:
    """/embed normalizes unless the request has `"normalize": false`."""
    return dict({"normalize": True}, **options) if path == EMBED else options


def documented() -> Dict[str, JsonObject]:
    """The routes for /openapi.json: an example of what each takes."""
    compared = {"source_sentence": "Where is Paris?", "sentences": ["Paris is in France."]}
    return {
        EMBED: {"example": {"inputs": ["Where is Paris?"], "normalize": True}},
        SIMILARITY: {"example": {"inputs": compared}},
        RERANK: {"example": {"query": "Where is Paris?", "texts": ["Paris is in France."]}},
        TOKENIZE: {"example": {"inputs": "Where is Paris?"}},
    }
