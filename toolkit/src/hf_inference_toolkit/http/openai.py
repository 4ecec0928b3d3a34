"""OpenAI's API: chat completions, completions, embeddings and models."""

import time
from typing import Dict, Optional

from starlette.requests import Request
from starlette.responses import Response

from hf_inference_toolkit.content import codecs, payload
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.http import openai_embeddings, openai_requests
from hf_inference_toolkit.http.invocations import Invocations
from hf_inference_toolkit.http.openai_answers import Chunks, whole
from hf_inference_toolkit.http.responses import json_response
from hf_inference_toolkit.models.model import Model
from hf_inference_toolkit.tasks.service import Service

CHAT, COMPLETIONS, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
EMBEDDINGS = "/v1/embeddings"
ONE_MODEL = MODELS + "/"
# A size with which work is done off the event loop.
OFF_LOOP = 1 << 20


class OpenAI:
    """The endpoints. `name` is the name of the served model; requests may have any, unless there are adapters."""

    def __init__(self, invocations: Invocations, model: Model, name: str, deadline: float) -> None:
        self._invocations = invocations
        self._model = model
        self._name = name
        self._deadline = deadline
        self._created = int(time.time())
        invocations.answer_openai = self.answer_invocation

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._answer(request, True)

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._answer(request, False)

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings."""
        ends = time.monotonic() + self._deadline
        service = self._model.serving()
        if not service.embeds:
            raise RequestError(
                "not_found",
                "{} is served by models of sentence-embeddings, and the task of this model is {}".format(
                    EMBEDDINGS, service.task
                ),
            )
        return await self._embedded(service, await self._document(request, ends), request, ends)

    async def _embedded(self, service: Service, document: object, request: Request, ends: float) -> Response:
        """The response to a parsed body."""
        size = 0 if payload.is_small(document) else OFF_LOOP
        query = await self._invocations.off_loop(
            size, lambda: openai_embeddings.read(document, service, self._adapter)
        )
        prediction = await self._invocations.predict(service, query.request, request, ends)
        name = query.request.adapter or self._name

        def written() -> bytes:
            return payload.write_json(openai_embeddings.answer(query, name, prediction))

        # A number takes eight bytes in base64, and up to 21 as text.
        body = await self._invocations.off_loop(8 * sum(map(len, prediction.value)), written)
        headers = {"Content-Type": codecs.JSON}
        if prediction.is_truncated:
            headers["X-Inputs-Truncated"] = "true"
        return Response(body, 200, headers)

    async def _answer(self, request: Request, is_chat: bool) -> Response:
        ends = time.monotonic() + self._deadline
        service = self._model.serving()
        self.check_served(service, is_chat, request.scope["path"])
        document = await self._document(request, ends)
        return await self.answer_document(service, document, is_chat, request, ends)

    async def _document(self, request: Request, ends: float) -> object:
        """The parsed body of a request."""
        content_type = codecs.content_type(request.headers.get("content-type"))
        if content_type.name not in (codecs.JSON, codecs.BINARY):
            raise RequestError(
                "unsupported_media_type",
                "Content-Type {!r} cannot be read here; send application/json".format(
                    content_type.name[:100]
                ),
                {"Accept": codecs.JSON},
            )
        body = await self._invocations.receive(request, ends)
        charset = content_type.parameters.get("charset")
        return await self._invocations.off_loop(len(body), lambda: payload.read_json(body, charset))

    def check_served(self, service: Service, is_chat: bool, path: str) -> None:
        """RequestError (404) for a task that does not complete texts."""
        if not service.completes:
            raise RequestError(
                "not_found",
                "{} needs a model that generates text, or one for images or audio with a chat template; the task of "
                "this model is {}".format(path, service.task),
            )

    async def answer_invocation(
        self, service: Service, document: object, request: Request, ends: float
    ) -> Optional[Response]:
        """The response to a body at /invocations if it is in OpenAI's form; its errors are, too."""
        form = openai_requests.form_of(document)
        if form is None or (form == "embeddings" and not service.embeds):
            return None
        request.scope["is_openai"] = True
        if form == "embeddings":
            return await self._embedded(service, document, request, ends)
        if not service.completes:
            raise RequestError(
                "unsupported_value",
                "'messages' and 'prompt' need a model that generates text, or one for images or audio with a chat "
                'template; the task of this model is {}: send "inputs"'.format(service.task),
            )
        return await self.answer_document(service, document, form == "chat", request, ends)

    async def answer_document(
        self, service: Service, document: object, is_chat: bool, request: Request, ends: float
    ) -> Response:
        """The response to a parsed body in OpenAI's form."""
        size = 0 if payload.is_small(document) else OFF_LOOP
        query = await self._invocations.off_loop(size, lambda: openai_requests.read(document, is_chat))
        adapter = self._adapter(service, query.model)
        query = query._replace(completion=query.completion._replace(adapter=adapter))
        name = adapter or self._name
        # Compiling a grammar takes long; checking messages does not.
        size = OFF_LOOP if query.completion.grammar or is_chat else 0
        prompt = await self._invocations.off_loop(size, lambda: service.prepare(query.completion))
        if query.is_stream:
            writer = Chunks(query, name)
            return await self._invocations.stream(
                service, prompt._replace(is_stream=True), request, ends, writer
            )
        prediction = await self._invocations.predict(service, prompt, request, ends)
        return json_response(whole(query, name, prediction.value))

    def _adapter(self, service: Service, model: str) -> Optional[str]:
        """The adapter that `model` names; None for the base model. Without adapters a request may have any name."""
        if not service.adapters or model in ("", self._name):
            return None
        if model not in service.adapters:
            raise self._unknown(service, model)
        return model

    def _unknown(self, service: Service, model: str) -> RequestError:
        names = ", ".join([self._name, *service.adapters])
        known = "the models are {}" if service.adapters else "the model is '{}'"
        return RequestError(
            "not_found", "no model '{}'; {}".format(model[:200], known.format(names)), param="model"
        )

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        service = self._model.serving()
        data = [self._described(name) for name in (self._name, *service.adapters)]
        return json_response({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        service = self._model.serving()
        name = request.scope["path"][len(ONE_MODEL) :]
        if name not in (self._name, *service.adapters):
            raise self._unknown(service, name)
        return json_response(self._described(name))

    def _described(self, name: str) -> Dict[str, object]:
        """A model; an adapter has a parent."""
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "hf-inference-toolkit",
            **({} if name == self._name else {"parent": self._name}),
        }


def documented() -> Dict[str, Dict[str, object]]:
    """The routes for /openapi.json: what each POST takes."""
    message = {"role": "user", "content": "Where is Paris?"}
    return {
        CHAT: {"schema": openai_requests.schema(True), "example": {"messages": [message]}},
        COMPLETIONS: {"schema": openai_requests.schema(False), "example": {"prompt": "Paris is in"}},
        EMBEDDINGS: {"schema": openai_embeddings.schema(), "example": {"input": ["Where is Paris?"]}},
    }
