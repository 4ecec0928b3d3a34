"""One prediction request from its first byte to its answer."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from hf_inference_toolkit import media
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.failures import as_request_error
from hf_inference_toolkit.health import Health
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.metrics import Metrics
from hf_inference_toolkit.payload import Request as Prompt
from hf_inference_toolkit.scheduler import Job, Scheduler
from hf_inference_toolkit.service import Prediction, Service
from hf_inference_toolkit.settings import Settings

# Bodies up to this size are read and written on the event loop: a switch of threads would cost more.
SMALL = 16 * 1024
# How often a body that does not arrive is looked after.
LOOK_SECONDS = 0.2


class Invocations:
    """Reads, checks, predicts and writes; nothing that takes long runs on the event loop."""

    def __init__(self, settings: Settings, health: Health, scheduler: Scheduler, metrics: Metrics) -> None:
        self.routes = [path for path in ("/invocations", settings.predict_route) if path]
        self._settings = settings
        self._health = health
        self._scheduler = scheduler
        self._metrics = metrics
        self._codec = ThreadPoolExecutor(max_workers=2, thread_name_prefix="codec")

    async def answer(self, request: Request) -> Response:
        """The answer to one POST; RequestError for everything that is wrong with it."""
        ends = time.monotonic() + self._settings.deadline
        service = self._health.serving()
        content_type, accept = self._negotiate(service, request)
        body = await self._body(request, ends)
        self._health.serving()  # the server may have begun to drain while the body came in
        prompt = await self._off_loop(len(body), lambda: service.read(body, content_type, accept))
        prediction = await self._predict(service, prompt, request, ends)
        value = {"predictions": prediction.value} if prompt.is_vertex else prediction.value
        content, written = await self._off_loop(SMALL + 1, lambda: service.write(value, accept))
        headers = dict(self._headers(prediction, prompt, request), **{"Content-Type": written})
        return Response(content, 200, headers)

    def _negotiate(self, service: Service, request: Request) -> Any:
        sent, wanted = request.headers.get("content-type"), ",".join(request.headers.getlist("accept"))
        if service.negotiates:
            return media.content_type(sent), media.accepted(wanted, self._settings.default_accept)
        return media.as_sent(sent or media.JSON), media.preferred(wanted, self._settings.default_accept)

    async def _body(self, request: Request, ends: float) -> bytes:
        """The whole body; 413 as soon as it is known to be too large, and not a byte is read after that."""
        most = self._settings.max_payload
        told = request.headers.get("content-length", "")
        if told.isdigit() and int(told) > most:
            raise _too_large(most)
        chunks: List[bytes] = []
        size = 0
        stream = request.stream().__aiter__()
        while True:
            try:
                chunk = await self._next(stream, ends)
            except StopAsyncIteration:
                return b"".join(chunks)
            except ClientDisconnect:
                raise RequestError("malformed", "the connection ended before the body did") from None
            size += len(chunk)
            if size > most:
                raise _too_large(most)
            chunks.append(chunk)

    async def _next(self, stream: Any, ends: float) -> Any:
        """The body's next part; 408 at the deadline, 503 when the server ends before the body does."""
        arriving = asyncio.ensure_future(stream.__anext__())
        try:
            while not (await asyncio.wait([arriving], timeout=LOOK_SECONDS))[0]:
                self._health.serving()
                if time.monotonic() > ends:
                    headers = {"Connection": "close"}
                    raise RequestError("body_too_slow", "the body did not arrive in time", headers)
            return arriving.result()
        finally:
            arriving.cancel()

    async def _off_loop(self, size: int, work: Callable[[], Any]) -> Any:
        if size <= SMALL:
            return work()
        return await asyncio.get_event_loop().run_in_executor(self._codec, work)

    async def _predict(self, service: Service, prompt: Prompt, request: Request, ends: float) -> Prediction:
        def work(job: Job) -> Prediction:
            return service.predict(prompt, job.check)

        began = time.monotonic()
        prediction: Any = None
        try:
            prediction = await self._unless_left(self._scheduler.submit(work, ends - began), request)
        except RequestError:
            raise
        except Exception as problem:
            raise await self._explain(problem, service, prompt, request) from None
        self._metrics.prediction.observe(time.monotonic() - began)
        self._metrics.batch.observe(prediction.items)
        self._metrics.tokens.add(prediction.tokens_in, direction="in")
        self._metrics.tokens.add(prediction.tokens_out, direction="out")
        return prediction  # type: ignore[no-any-return]

    async def _unless_left(self, waiting: Any, request: Request) -> Any:
        """The result of `waiting`; it is dropped when the client hangs up first."""
        task = asyncio.ensure_future(waiting)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise RequestError("malformed", "the client left before the answer")
        finally:
            task.cancel()
            gone.cancel()

    async def _explain(
        self, problem: Exception, service: Service, prompt: Prompt, request: Request
    ) -> RequestError:
        """What the client is told of an exception in a prediction, and whether the model survived it."""
        error = as_request_error(problem, service, prompt)
        if error.status < 500:
            return error
        event(40, "a prediction failed", problem, request_id=request.scope["request_id"])
        try:
            await self._scheduler.submit(lambda job: service.warm_up(job.check), self._settings.deadline)
        except RequestError:
            pass  # no time or no place to look: the next failure will
        except Exception as worse:
            event(40, "the warm-up fails too", worse, request_id=request.scope["request_id"])
            self._health.fail("a prediction failed, and now the warm-up does")
        return error

    def _headers(self, prediction: Prediction, prompt: Prompt, request: Request) -> Dict[str, str]:
        headers: Dict[str, str] = {}
        if prediction.is_truncated:
            headers["X-Inputs-Truncated"] = "true"
        if prompt.warnings:
            headers["X-Warning"] = "; ".join(prompt.warnings)
            event(30, headers["X-Warning"], request_id=request.scope["request_id"])
        return headers


async def _disconnected(request: Request) -> None:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return


def _too_large(most: int) -> RequestError:
    # The rest of the body is still on its way: this connection has no future.
    return RequestError(
        "payload_too_large",
        "the body is larger than {} bytes (SAGEMAKER_MAX_PAYLOAD_IN_MB)".format(most),
        {"Connection": "close"},
    )
