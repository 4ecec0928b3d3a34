"""Prediction requests: body, deadline, prediction, response."""

import asyncio
import time
from concurrent.futures import Executor
from typing import Awaitable, Callable, Dict, Optional, Set, Tuple, TypeVar, cast

from starlette.requests import Request
from starlette.responses import Response

from hf_inference_toolkit.content import codecs, payload
from hf_inference_toolkit.content.payload import Request as Prompt
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.http import events, parameters
from hf_inference_toolkit.http.bodies import SMALL, Bodies
from hf_inference_toolkit.http.events import (
    TYPE,
    Ended,
    EventStream,
    EventWriter,
    RunningStream,
    StreamedResponse,
    TokenEvents,
    TokenStream,
    disconnected,
)
from hf_inference_toolkit.http.metrics import Metrics
from hf_inference_toolkit.http.parts import PartStream
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.models.failures import as_request_error, is_rejection
from hf_inference_toolkit.models.model import Model
from hf_inference_toolkit.runtimes.accelerator import accelerator_fault
from hf_inference_toolkit.scheduling.scheduler import Scheduler
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks.service import Part, Prediction, Service

SOON = 0.05
HUB_ROUTE = "/"
T = TypeVar("T")
AnswerDocument = Callable[[Service, object, Request, float], Awaitable[Optional[Response]]]


class Invocations(Bodies):
    """The endpoint of predictions."""

    def __init__(
        self, settings: Settings, model: Model, scheduler: Scheduler, metrics: Metrics, executor: Executor
    ) -> None:
        super().__init__(settings, model, executor)
        # huggingface_hub.InferenceClient(base_url=...) sends its requests to HUB_ROUTE.
        self.routes = list(filter(None, ("/invocations", settings.predict_route, HUB_ROUTE)))
        # Answers documents in OpenAI's form, and returns None for others.
        self.answer_openai: Optional[AnswerDocument] = None
        self._scheduler = scheduler
        self._metrics = metrics
        self.streams: Set[StreamedResponse] = set()

    async def answer(self, request: Request) -> Response:
        """The response to a POST. Raises RequestError."""
        ends = time.monotonic() + self._settings.deadline
        service = self._model.serving()
        content_type, accept = self._negotiate(service, request)
        body = await self.receive(request, ends)
        if service.negotiates:
            content_type = codecs.sniff(content_type, body)
            other = await self._other_form(service, content_type, body, request, ends)
            if other is not None:
                return other
        content_type = content_type._replace(task_parameters=_parameters(service, request, content_type))
        prompt = await self.off_loop(len(body), lambda: service.read(body, content_type, accept))
        prompt = service.with_headers(prompt, request.headers, request.scope["request_id"])
        if service.may_stream:
            return await self._stream_parts(service, prompt, request, ends)
        if prompt.is_stream:
            return await self.stream(service, prompt, request, ends, TokenEvents())
        prediction = await self.predict(service, prompt, request, ends)
        value = prediction.value
        if request.scope["path"] == HUB_ROUTE and not prompt.is_vertex:
            value = service.for_hub_client(value, isinstance(prompt.inputs, list))
        if prompt.is_vertex:
            value = {"predictions": value}
        size = 0 if payload.is_small(value) else SMALL + 1
        content, written = await self.off_loop(size, lambda: service.write(value, accept))
        headers = dict(self._headers(prediction, prompt, request), **{"Content-Type": written})
        return Response(content, 200, headers)

    async def _other_form(
        self, service: Service, content_type: codecs.MediaType, body: bytes, request: Request, ends: float
    ) -> Optional[Response]:
        """The response to a body in OpenAI's form, which SageMaker forwards here; None for any other body."""
        if (
            self.answer_openai is None
            or content_type.name != codecs.JSON
            or not (b'"messages"' in body or b'"prompt"' in body or (service.embeds and b'"input"' in body))
        ):
            return None
        charset = content_type.parameters.get("charset")
        try:
            document = await self.off_loop(len(body), lambda: payload.read_json(body, charset))
        except RequestError:
            return None  # it may be JSON Lines; otherwise it gets the error of all other bodies
        return await self.answer_openai(service, document, request, ends)

    def _negotiate(self, service: Service, request: Request) -> Tuple[codecs.MediaType, str]:
        sent, wanted = request.headers.get("content-type"), ",".join(request.headers.getlist("accept"))
        if service.negotiates:
            # A streaming request is answered with events, whatever else Accept has.
            wanted = wanted if TYPE not in wanted else ""
            default = self._settings.default_accept
            if request.scope["path"] == HUB_ROUTE:
                default = service.hub_type or default
            return codecs.content_type(sent), codecs.accepted(wanted, default, service.media_types)
        return codecs.as_sent(sent or codecs.JSON), codecs.preferred(wanted, self._settings.default_accept)

    async def predict(self, service: Service, prompt: Prompt, request: Request, ends: float) -> Prediction:
        """The prediction of a request. Raises RequestError."""
        began = time.monotonic()
        job = self._scheduler.submit(service, prompt, ends - began)
        try:
            prediction: Prediction = await self._result(job.future, request, ends - began)
        except (RequestError, asyncio.CancelledError):  # the latter is an Exception before Python 3.8
            raise
        except Exception as problem:
            raise await self._explain(problem, service, prompt, request) from None
        finally:
            self._scheduler.cancel(job)
        self._metrics.used(prediction.tokens_in, prediction.tokens_out)
        return prediction

    async def stream(
        self, service: Service, prompt: Prompt, request: Request, ends: float, writer: EventWriter
    ) -> Response:
        """A streaming response. A failure before the head gets an ordinary error response.

        The head is written with the first token, or when the first token takes so long that the connection must be
        kept alive.
        """
        running = self._submit(service, prompt, request, ends)
        try:
            left = ends - time.monotonic()
            await self._wait(running.tokens.begun, request, min(left, events.KEEP_ALIVE_SECONDS))
            if running.has_failed:
                running.job.future.result()
        except asyncio.CancelledError:
            running.finish()
            raise
        except Exception as problem:
            running.finish()
            raise await running.explain(problem) from None
        return EventStream(running, writer, self.streams)

    async def _stream_parts(
        self, service: Service, prompt: Prompt, request: Request, ends: float
    ) -> Response:
        """The response of user code, which may be a stream. The first part has the head."""
        running = self._submit(service, prompt, request, ends)
        first = asyncio.ensure_future(running.tokens.next())
        try:
            part = await self._result(first, request, ends - time.monotonic())
            if isinstance(part, Ended):
                prediction = running.job.future.result()
        except asyncio.CancelledError:
            running.finish()
            raise
        except Exception as problem:
            running.finish()
            raise await running.explain(problem) from None
        finally:
            first.cancel()
        if isinstance(part, Part):
            return PartStream(running, part, self.streams)
        running.finish()
        return _whole(prediction)

    def _submit(self, service: Service, prompt: Prompt, request: Request, ends: float) -> RunningStream:
        tokens = TokenStream()
        job = self._scheduler.submit(service, prompt, ends - time.monotonic(), tokens)
        job.future.add_done_callback(tokens.end)

        def finish() -> None:
            self._scheduler.cancel(job)
            if job.future.done() and not job.future.cancelled() and job.future.exception() is None:
                prediction = job.future.result()
                self._metrics.used(prediction.tokens_in, prediction.tokens_out)

        async def explain(problem: Exception) -> RequestError:
            if isinstance(problem, RequestError):
                return problem
            return await self._explain(problem, service, prompt, request)

        return RunningStream(job, tokens, explain, finish)

    async def _result(self, future: "asyncio.Future[T]", request: Request, seconds: float) -> T:
        """The result of a future. RequestError if the client disconnects or the deadline passes first."""
        if not await self._wait(future, request, seconds):
            raise RequestError("deadline_exceeded", "no response within {:g} seconds".format(seconds))
        return future.result()

    async def _wait(self, future: "asyncio.Future[T]", request: Request, seconds: float) -> bool:
        """Whether a future is done within `seconds`. RequestError if the client disconnects first."""
        # Most predictions finish before it pays to watch for a disconnect.
        await asyncio.wait([future], timeout=min(SOON, seconds))
        if future.done():
            return True
        gone = asyncio.ensure_future(disconnected(request))
        try:
            left = max(0.0, seconds - SOON)
            either = [future, cast("asyncio.Future[T]", gone)]
            await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not future.done():
                raise RequestError("malformed", "the client disconnected before the response")
            return future.done()
        finally:
            gone.cancel()

    async def _explain(
        self, problem: Exception, service: Service, prompt: Prompt, request: Request
    ) -> RequestError:
        """The error response for an exception in a prediction. Checks whether the model can still serve."""
        error = as_request_error(problem, service, prompt)
        if error.status < 500:
            if not is_rejection(problem):  # the parameters may be the cause, or the server
                event(30, "a prediction failed", problem, request_id=request.scope["request_id"])
            return error
        event(40, "a prediction failed", problem, request_id=request.scope["request_id"])
        # User code has no warm-up that would detect a fault of the GPU.
        looked = asyncio.get_event_loop().run_in_executor(None, accelerator_fault)
        try:
            fault = await asyncio.wait_for(looked, self._settings.deadline)
        except asyncio.TimeoutError:
            return error  # a stuck prediction: the watchdog detects it
        if fault:
            self._model.server.fail(fault)
            return error
        try:
            job = self._scheduler.submit(service, None, self._settings.deadline)
        except RequestError:
            return error  # the queue is full: the next failure is checked
        try:
            await asyncio.wait_for(asyncio.shield(job.future), self._settings.deadline)
        except (RequestError, asyncio.TimeoutError):
            pass  # no result in time
        except Exception as worse:
            event(40, "the warm-up fails too", worse, request_id=request.scope["request_id"])
            self._model.fail("a prediction failed, and then the warm-up failed too")
        finally:
            self._scheduler.cancel(job)
        return error

    def end_streams(self, problem: RequestError) -> None:
        """End all running streams with an error."""
        for stream in list(self.streams):
            stream.abort(problem)

    def _headers(self, prediction: Prediction, prompt: Prompt, request: Request) -> Dict[str, str]:
        headers: Dict[str, str] = {}
        if prediction.is_truncated:
            headers["X-Inputs-Truncated"] = "true"
        if prompt.warnings:
            headers["X-Warning"] = "; ".join(prompt.warnings)
            event(30, headers["X-Warning"], request_id=request.scope["request_id"])
        return headers


def _parameters(service: Service, request: Request, content_type: codecs.MediaType) -> Dict[str, object]:
    """Parameters from the query string, and from custom attributes if the body is not JSON."""
    found = parameters.from_query(request.scope["query_string"].decode("latin-1"))
    header = request.headers.get(parameters.HEADER)
    if header and service.negotiates and content_type.name not in (codecs.JSON, codecs.JSON_LINES):
        schema = service.schema()["properties"].get("parameters", {})
        found = dict(parameters.from_attributes(header, schema.get("properties")), **found)
    return found


def _whole(prediction: Prediction) -> Response:
    """The response of user code that does not stream."""
    body, content_type = prediction.value
    if prediction.status in (204, 304):
        body = b""  # RFC 9110: these statuses have no body
    headers = dict(prediction.headers, **{"Content-Type": content_type})
    return Response(body, prediction.status, headers)
