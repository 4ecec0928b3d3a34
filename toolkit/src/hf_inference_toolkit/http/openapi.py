"""The OpenAPI document of the task that is served."""

from typing import Dict, List, Mapping

from hf_inference_toolkit import __version__, errors, limits
from hf_inference_toolkit.content import codecs
from hf_inference_toolkit.tasks.service import Service

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["status", "code", "message", "request_id"],
            "properties": {
                "status": {"type": "integer"},
                "code": {"type": "string", "enum": sorted(errors.TABLE)},
                "message": {"type": "string"},
                "request_id": {"type": "string"},
            },
        }
    },
}

Json = Dict[str, object]
_REQUEST: Dict[str, Json] = {codecs.JSON: {"schema": {"$ref": "#/components/schemas/Request"}}}
_ANSWER = {"description": "the answer", "content": {codecs.JSON: {}}}
_FILE = {"schema": {"type": "string", "format": "binary"}}


def document(
    service: Service,
    predict_routes: List[str],
    openai_routes: Mapping[str, object],
    text_routes: List[str],
    embedding_routes: Mapping[str, object],
) -> Json:
    """An OpenAPI 3.0 document with the task's parameters, valid examples and the limits (`x-limits`).

    `openai_routes` are the contents of the bodies of OpenAI's API, `text_routes` are those that take a text, and
    `embedding_routes` are the contents of the bodies of text-embeddings-inference's.
    """
    paths: Json = {"/ping": {"get": {"summary": "Health check", "responses": _ping()}}}
    for path in predict_routes:
        paths[path] = {"post": _predict(service)}
    for path, content in openai_routes.items():
        if service.embeds if path.endswith("/embeddings") else service.completes:
            paths[path] = {"post": _post("OpenAI: " + path, {codecs.JSON: content}, {codecs.JSON: {}})}
    for path, content in embedding_routes.items():
        if {"/rerank": service.ranks, "/tokenize": service.tokenization is not None}.get(
            path, service.embeds
        ):
            about = "text-embeddings-inference: " + path
            paths[path] = {"post": _post(about, {codecs.JSON: content}, {codecs.JSON: {}})}
    if service.completes or service.embeds:
        paths["/v1/models"] = {"get": {"summary": "OpenAI: models", "responses": {"200": _ANSWER}}}
    if service.streams:
        for path in text_routes:
            paths[path] = {"post": _post("text-generation-inference: " + path, _REQUEST, {codecs.JSON: {}})}
        paths["/info"] = {
            "get": {"summary": "text-generation-inference: the model", "responses": {"200": _ANSWER}}
        }
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Inference: " + service.task,
            "version": __version__,
            "description": _described(service),
        },
        "paths": paths,
        "components": {"schemas": {"Request": service.schema(), "Error": _ERROR}},
        "x-limits": [limit._asdict() for limit in limits.TABLE],
    }


def _described(service: Service) -> str:
    return ", ".join("{}: {}".format(name, value) for name, value in sorted(service.described().items()))


def _ping() -> Json:
    return {
        "200": {"description": "ready"},
        "500": {"description": "the model can no longer serve"},
        "503": {"description": "loading, or shutting down"},
    }


def _predict(service: Service) -> Json:
    content: Json = dict(_REQUEST[codecs.JSON])
    examples = service.examples()
    if examples:
        content["examples"] = {
            "example-{}".format(number): {"value": value} for number, value in enumerate(examples, 1)
        }
    body = dict({codecs.JSON: content}, **dict.fromkeys(service.body_types, _FILE))
    answers: Json = {name: {} for name in (*codecs.WRITTEN, *service.media_types)}
    return _post("Predict: " + service.task, body, answers)


def _post(summary: str, body: Mapping[str, object], answers: Mapping[str, object]) -> Json:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": body},
        "responses": dict({"200": {"description": "the answer", "content": answers}}, **_failures()),
    }


def _failures() -> Json:
    meanings: Dict[str, List[str]] = {}
    for kind in errors.TABLE.values():
        meanings.setdefault(str(kind.status), []).append(kind.meaning)
    content = {codecs.JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        status: {"description": "; ".join(words), "content": content} for status, words in meanings.items()
    }
