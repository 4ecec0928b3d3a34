"""One prediction request from its first byte to its answer."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Optional, Set

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from hf_inference_toolkit.content import codecs, payload
from hf_inference_toolkit.content.payload import Request as Prompt
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.http.events import TYPE, EventStream, TokenStream, disconnected
from hf_inference_toolkit.http.metrics import Metrics
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.models.failures import accelerator_fault, as_request_error
from hf_inference_toolkit.models.model import Health
from hf_inference_toolkit.scheduling.scheduler import Scheduler
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks.service import Prediction, Service

# Bodies up to this size are read and written on the event loop: a switch of threads would cost more.
SMALL = 16 * 1024
# How often a body that does not arrive is looked after.
LOOK_SECONDS = 0.2
SOON = 0.05


class Arrival:
    """A body on its way: the moment by which it must be there, and why it was ended."""

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.problem: Optional[RequestError] = None
        # Python 3.6 has it elsewhere.
        current = getattr(asyncio, "current_task", None) or asyncio.Task.current_task  # type: ignore[attr-defined]
        self._task = current()

    def end(self, problem: RequestError) -> None:
        """Stop waiting for it."""
        if self.problem is None:
            self.problem = problem
            self._task.cancel()


class Invocations:
    """Reads, checks, predicts and writes; nothing that takes long runs on the event loop."""

    def __init__(self, settings: Settings, health: Health, scheduler: Scheduler, metrics: Metrics) -> None:
        self.routes = [path for path in ("/invocations", settings.predict_route) if path]
        self._settings = settings
        self._health = health
        self._scheduler = scheduler
        self._metrics = metrics
        self._arriving: Set[Arrival] = set()
        self._codec = ThreadPoolExecutor(max_workers=2, thread_name_prefix="codec")

    async def answer(self, request: Request) -> Response:
        """The answer to one POST; RequestError for everything that is wrong with it."""
        ends = time.monotonic() + self._settings.deadline
        service = self._health.serving()
        content_type, accept = self._negotiate(service, request)
        body = await self._body(request, ends)
        self._health.serving()  # the server may have begun to drain while the body came in
        prompt = await self._off_loop(len(body), lambda: service.read(body, content_type, accept))
        if prompt.is_stream:
            return await self._stream(service, prompt, request, ends)
        prediction = await self._predict(service, prompt, request, ends)
        value = {"predictions": prediction.value} if prompt.is_vertex else prediction.value
        size = 0 if payload.is_small(value) else SMALL + 1
        content, written = await self._off_loop(size, lambda: service.write(value, accept))
        headers = dict(self._headers(prediction, prompt, request), **{"Content-Type": written})
        return Response(content, 200, headers)

    def _negotiate(self, service: Service, request: Request) -> Any:
        sent, wanted = request.headers.get("content-type"), ",".join(request.headers.getlist("accept"))
        if service.negotiates:
            # A request that streams is answered with events, whatever else its client would take.
            wanted = wanted if TYPE not in wanted else ""
            return codecs.content_type(sent), codecs.accepted(wanted, self._settings.default_accept)
        return codecs.as_sent(sent or codecs.JSON), codecs.preferred(wanted, self._settings.default_accept)

    async def _body(self, request: Request, ends: float) -> bytes:
        """The whole body; 413 as soon as it is known to be too large, and not a byte is read after that."""
        most = self._settings.max_payload
        told = request.headers.get("content-length", "")
        if told.isdigit() and int(told) > most:
            raise _too_large(most)
        arrival = Arrival(ends)
        self._arriving.add(arrival)
        chunks: List[bytes] = []
        size = 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise _too_large(most)
                chunks.append(chunk)
        except ClientDisconnect:
            raise RequestError("malformed", "the connection ended before the body did") from None
        except asyncio.CancelledError:
            if arrival.problem is None:
                raise
            raise arrival.problem from None
        finally:
            self._arriving.discard(arrival)
        return b"".join(chunks)

    async def look_after_bodies(self) -> None:
        """Ends what arrives too slowly with 408, and with 503 when the server ends before the body does."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for arrival in list(self._arriving):
                try:
                    self._health.serving()
                except RequestError as refused:
                    arrival.end(refused)
                if time.monotonic() > arrival.ends:
                    headers = {"Connection": "close"}
                    arrival.end(RequestError("body_too_slow", "the body did not arrive in time", headers))

    async def _off_loop(self, size: int, work: Callable[[], Any]) -> Any:
        if size <= SMALL:
            return work()
        return await asyncio.get_event_loop().run_in_executor(self._codec, work)

    async def _predict(self, service: Service, prompt: Prompt, request: Request, ends: float) -> Prediction:
        began = time.monotonic()
        job = self._scheduler.enter(service, prompt, ends - began)
        try:
            prediction: Prediction = await self._result(job.future, request, ends - began)
        except RequestError:
            raise
        except Exception as problem:
            raise await self._explain(problem, service, prompt, request) from None
        finally:
            self._scheduler.leave(job)
        self._count(prediction, time.monotonic() - began)
        return prediction

    async def _stream(self, service: Service, prompt: Prompt, request: Request, ends: float) -> Response:
        """The answer while it is written. What goes wrong before the first token is an error like any other."""
        began = time.monotonic()
        tokens = TokenStream()
        job = self._scheduler.enter(service, prompt, ends - began, tokens)
        job.future.add_done_callback(tokens.end)
        first = asyncio.ensure_future(tokens.next())

        def finish() -> None:
            first.cancel()
            self._scheduler.leave(job)
            if job.future.done() and not job.future.cancelled() and job.future.exception() is None:
                self._count(job.future.result(), time.monotonic() - began)

        async def explain(problem: Exception) -> RequestError:
            if isinstance(problem, RequestError):
                return problem
            return await self._explain(problem, service, prompt, request)

        try:
            token = await self._result(first, request, ends - began)
            if token is None:
                job.future.result()
        except Exception as problem:
            finish()
            raise await explain(problem) from None
        return EventStream(job, token, tokens, explain, finish)

    def _count(self, prediction: Prediction, seconds: float) -> None:
        self._metrics.prediction.observe(seconds)
        self._metrics.batch.observe(prediction.items)
        self._metrics.tokens.add(prediction.tokens_in, direction="in")
        self._metrics.tokens.add(prediction.tokens_out, direction="out")

    async def _result(self, future: "asyncio.Future[Any]", request: Request, seconds: float) -> Any:
        """The result of a future in time; it is not waited for when the client hangs up first."""
        # Most answers are there before it is worth asking whether anybody has left.
        await asyncio.wait([future], timeout=min(SOON, seconds))
        if future.done():
            return future.result()
        gone = asyncio.ensure_future(disconnected(request))
        try:
            await asyncio.wait(
                [future, gone], timeout=max(0.0, seconds - SOON), return_when=asyncio.FIRST_COMPLETED
            )
            if future.done():
                return future.result()
            if gone.done():
                raise RequestError("malformed", "the client left before the answer")
            raise RequestError("deadline_exceeded", "no answer within {:g} seconds".format(seconds))
        finally:
            gone.cancel()

    async def _explain(
        self, problem: Exception, service: Service, prompt: Prompt, request: Request
    ) -> RequestError:
        """What the client is told of an exception in a prediction, and whether the model survived it."""
        error = as_request_error(problem, service, prompt)
        if error.status < 500:
            return error
        event(40, "a prediction failed", problem, request_id=request.scope["request_id"])
        # User code has no warm-up that would show it.
        looked = asyncio.get_event_loop().run_in_executor(None, accelerator_fault)
        try:
            fault = await asyncio.wait_for(looked, self._settings.deadline)
        except asyncio.TimeoutError:
            return error  # behind work that does not end: that is found elsewhere
        if fault:
            self._health.fail(fault)
            return error
        try:
            job = self._scheduler.enter(service, None, self._settings.deadline)
        except RequestError:
            return error  # no place to look: the next failure will
        try:
            await asyncio.wait_for(asyncio.shield(job.future), self._settings.deadline)
        except (RequestError, asyncio.TimeoutError):
            pass  # no time to look
        except Exception as worse:
            event(40, "the warm-up fails too", worse, request_id=request.scope["request_id"])
            self._health.fail("a prediction failed, and now the warm-up does")
        finally:
            self._scheduler.leave(job)
        return error

    def _headers(self, prediction: Prediction, prompt: Prompt, request: Request) -> Dict[str, str]:
        headers: Dict[str, str] = {}
        if prediction.is_truncated:
            headers["X-Inputs-Truncated"] = "true"
        if prompt.warnings:
            headers["X-Warning"] = "; ".join(prompt.warnings)
            event(30, headers["X-Warning"], request_id=request.scope["request_id"])
        return headers


def _too_large(most: int) -> RequestError:
    # The rest of the body is still on its way: this connection has no future.
    return RequestError(
        "payload_too_large",
        "the body is larger than {} bytes (SAGEMAKER_MAX_PAYLOAD_IN_MB)".format(most),
        {"Connection": "close"},
    )
