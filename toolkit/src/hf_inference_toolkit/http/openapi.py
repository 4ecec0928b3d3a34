"""The OpenAPI document of the task that is served."""

from typing import Any, Dict, List

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

_FILE = {"schema": {"type": "string", "format": "binary"}}


def document(service: Service, predict_routes: List[str]) -> Dict[str, Any]:
    """An OpenAPI 3.0 document with the task's parameters, valid examples and the limits (`x-limits`)."""
    paths: Dict[str, Any] = {"/ping": {"get": {"summary": "Health check", "responses": _ping()}}}
    for path in predict_routes:
        paths[path] = {"post": _predict(service)}
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


def _ping() -> Dict[str, Any]:
    return {
        "200": {"description": "ready"},
        "500": {"description": "the model can no longer serve"},
        "503": {"description": "loading, or shutting down"},
    }


def _predict(service: Service) -> Dict[str, Any]:
    content: Dict[str, Any] = {"schema": {"$ref": "#/components/schemas/Request"}}
    examples = service.examples()
    if examples:
        content["examples"] = {
            "example-{}".format(number): {"value": value} for number, value in enumerate(examples, 1)
        }
    return {
        "summary": "Predict: " + service.task,
        "requestBody": {
            "required": True,
            "content": dict({codecs.JSON: content}, **dict.fromkeys(service.body_types, _FILE)),
        },
        "responses": dict(
            {
                "200": {
                    "description": "the prediction",
                    "content": {name: {} for name in (*codecs.WRITTEN, *service.media_types)},
                }
            },
            **_failures(),
        ),
    }


def _failures() -> Dict[str, Any]:
    responses: Dict[str, Any] = {}
    for kind in errors.TABLE.values():
        words = responses.get(str(kind.status), {}).get("description")
        responses[str(kind.status)] = {
            "description": words + "; " + kind.meaning if words else kind.meaning,
            "content": {codecs.JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
    return responses
