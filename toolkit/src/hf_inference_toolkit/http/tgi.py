"""The routes of text-generation-inference: /generate, /generate_stream and /info."""

import time
from typing import Dict, List

from starlette.requests import Request
from starlette.responses import Response

from hf_inference_toolkit import __version__, limits
from hf_inference_toolkit.content import codecs, payload
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.http.events import TokenEvents
from hf_inference_toolkit.http.invocations import Invocations
from hf_inference_toolkit.http.responses import json_response
from hf_inference_toolkit.models.model import Model
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks.service import Service

GENERATE, STREAM, INFO = "/generate", "/generate_stream", "/info"
# With any of these, text-generation-inference draws tokens, whatever `do_sample` is.
SAMPLING = ("temperature", "top_k", "top_p", "typical_p")


class TextGenerationInference:
    """The endpoints. Parameters are those of /invocations."""

    def __init__(self, invocations: Invocations, model: Model, name: str, settings: Settings) -> None:
        self._invocations = invocations
        self._model = model
        self._name = name
        self._settings = settings

    async def generate(self, request: Request) -> Response:
        """POST /generate."""
        return await self._answer(request, False)

    async def generate_stream(self, request: Request) -> Response:
        """POST /generate_stream."""
        return await self._answer(request, True)

    async def _answer(self, request: Request, is_stream: bool) -> Response:
        ends = time.monotonic() + self._settings.deadline
        service = self._served()
        content_type = codecs.content_type(request.headers.get("content-type"))
        body = await self._invocations.receive(request, ends)
        document = await self._invocations.off_loop(len(body), lambda: payload.read_json(body))
        content = payload.write_json(self._translated(document, is_stream))
        json = content_type._replace(name=codecs.JSON, parameters={})
        prompt = await self._invocations.off_loop(
            len(content), lambda: service.read(content, json, codecs.JSON)
        )
        if is_stream:
            return await self._invocations.stream(service, prompt, request, ends, TokenEvents())
        prediction = await self._invocations.predict(service, prompt, request, ends)
        result = dict(prediction.value[0])
        details = result.pop("details", None)
        text = next(iter(result.values()))
        return json_response(dict({"generated_text": text}, **({"details": details} if details else {})))

    def _served(self) -> Service:
        service = self._model.serving()
        if not service.streams:
            raise RequestError(
                "not_found",
                "{} need a model that generates text token by token; the task of this model is {}".format(
                    " and ".join((GENERATE, STREAM)), service.task
                ),
            )
        return service

    def _translated(self, document: object, is_stream: bool) -> Dict[str, object]:
        """The body for /invocations, with the defaults of text-generation-inference."""
        if not isinstance(document, dict):
            raise RequestError("malformed", 'the body must be an object such as {"inputs": "..."}')
        if not isinstance(document.get("inputs"), str):
            raise RequestError("unsupported_value", "'inputs' must be a string", param="inputs")
        if document.get("stream") not in (None, is_stream):
            raise RequestError("unsupported_value", "'stream' does not fit this route", param="stream")
        parameters = document.get("parameters") or {}
        if isinstance(parameters, dict) and self._model.serving().completes:
            parameters = dict(parameters)
            if parameters.get("return_full_text") is None:
                parameters["return_full_text"] = False
            if any(parameters.get(name) is not None for name in SAMPLING):
                parameters["do_sample"] = True
        return dict(document, parameters=parameters, stream=is_stream)

    async def info(self, request: Request) -> Response:
        """GET /info."""
        service = self._served()
        facts = service.facts
        return json_response(
            {
                "model_id": self._name,
                "model_dtype": facts.get("dtype"),
                "model_device_type": facts.get("device"),
                "model_pipeline_tag": service.task,
                "max_concurrent_requests": self._settings.queue_size,
                "max_best_of": 1,
                "max_stop_sequences": limits.STOP_SEQUENCES,
                "max_total_tokens": service.context_tokens,
                "max_input_tokens": max(0, service.context_tokens - 1),
                "max_client_batch_size": 1,
                "router": "hf-inference-toolkit",
                "version": __version__,
            }
        )


def documented() -> List[str]:
    """The routes for /openapi.json that take a body."""
    return [GENERATE, STREAM]
