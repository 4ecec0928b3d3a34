"""The bodies of requests: receiving them within a time and a size, and decompressing them."""

import asyncio
import time
from concurrent.futures import Executor
from typing import Callable, List, Optional, Set, TypeVar

from starlette.requests import ClientDisconnect, Request

from hf_inference_toolkit.content import compression
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.models.model import Model
from hf_inference_toolkit.settings import Settings

# Bodies up to this size are parsed on the event loop, because switching threads would take longer.
SMALL = 16 * 1024
# How often the deadlines of bodies that are still arriving are checked.
LOOK_SECONDS = 0.2
T = TypeVar("T")
# Python 3.6 has it elsewhere.
CurrentTask = Callable[[], "asyncio.Task[object]"]
current_task: CurrentTask = getattr(asyncio, "current_task", None) or asyncio.Task.current_task  # type: ignore[attr-defined]


class BodyDeadline:
    """A body that is being received, its deadline, and the error that ended it."""

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.problem: Optional[RequestError] = None
        self._task = current_task()

    def end(self, problem: RequestError) -> None:
        """Stop receiving the body; the request gets this error."""
        if self.problem is None:
            self.problem = problem
            self._task.cancel()


class Bodies:
    """Receives the bodies of requests for one model. Work that takes long does not run on the event loop."""

    def __init__(self, settings: Settings, model: Model, executor: Executor) -> None:
        """`executor` has the threads for large bodies and answers."""
        self._settings = settings
        self._model = model
        self._executor = executor
        self._arriving: Set[BodyDeadline] = set()

    async def receive(self, request: Request, ends: float) -> bytes:
        """The decompressed body of a request."""
        coding = compression.coding(request.headers.getlist("content-encoding"))
        body = await self._body(request, ends)
        self._model.serving()  # the server may have started to drain while the body was received
        if coding == "identity":
            return body
        # A small body may become a large one.
        return await self.off_loop(SMALL + 1, lambda: self._decompressed(body, coding))

    async def _body(self, request: Request, ends: float) -> bytes:
        """Receive the body. RequestError (413) as soon as it is known to be too large."""
        most = self._settings.max_payload
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > most:
            raise _too_large(most)
        arrival = BodyDeadline(ends)
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
            raise RequestError("malformed", "the connection closed before the end of the body") from None
        except asyncio.CancelledError:
            if arrival.problem is None:
                raise
            raise arrival.problem from None
        finally:
            self._arriving.discard(arrival)
        return b"".join(chunks)

    def _decompressed(self, body: bytes, coding: str) -> bytes:
        decoded = compression.decompress(body, coding, self._settings.max_payload)
        if decoded is None:
            raise RequestError(
                "payload_too_large",
                "the decompressed body is larger than {} bytes (SAGEMAKER_MAX_PAYLOAD_IN_MB)".format(
                    self._settings.max_payload
                ),
            )
        return decoded

    def look(self) -> None:
        """End bodies that arrive too slowly with 408, and with 503 if the server starts to drain."""
        for arrival in list(self._arriving):
            try:
                self._model.serving()
            except RequestError as refused:
                arrival.end(refused)
            if time.monotonic() > arrival.ends:
                headers = {"Connection": "close"}
                arrival.end(RequestError("body_too_slow", "the body did not arrive in time", headers))

    async def off_loop(self, size: int, work: Callable[[], T]) -> T:
        """The result of work on `size` bytes, done in another thread if it takes long."""
        if size <= SMALL:
            return work()
        return await asyncio.get_event_loop().run_in_executor(self._executor, work)


def _too_large(most: int) -> RequestError:
    # The rest of the body is still arriving: the connection cannot be used again.
    return RequestError(
        "payload_too_large",
        "the body is larger than {} bytes (SAGEMAKER_MAX_PAYLOAD_IN_MB)".format(most),
        {"Connection": "close"},
    )
