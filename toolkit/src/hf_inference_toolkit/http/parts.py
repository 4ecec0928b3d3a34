"""Streaming responses of user code."""

import asyncio
import time
from typing import Awaitable, Callable, List, Set, Tuple

from starlette.requests import Request
from starlette.responses import Response

from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.http.asgi import Receive, Scope, Send
from hf_inference_toolkit.http.events import (
    GRACE_SECONDS,
    Ended,
    TokenStream,
    disconnected,
    event,
)
from hf_inference_toolkit.scheduling.job import Job
from hf_inference_toolkit.tasks.service import Part


class PartStream(Response):  # type: ignore[misc]
    """Sends parts until the stream ends, the deadline passes or the client disconnects.

    An error after the first part is an event if the body consists of events. Otherwise the connection is closed
    without the last chunk, so that the client detects an incomplete body.
    """

    def __init__(
        self,
        job: Job,
        first: Part,
        tokens: TokenStream,
        explain: Callable[[Exception], Awaitable[RequestError]],
        finish: Callable[[], None],
        running: "Set[PartStream]",
    ) -> None:
        content_type = first.head.value[1]
        headers = dict(first.head.headers, **{"Content-Type": content_type, "Cache-Control": "no-cache"})
        super().__init__(None, first.head.status, headers)
        # The base class adds a Content-Length, but the length is not known.
        self._start: List[Tuple[bytes, bytes]] = [
            pair for pair in self.raw_headers if pair[0].lower() != b"content-length"
        ]
        self._job = job
        self._first = first
        self._tokens = tokens
        self._explain = explain
        self._finish = finish
        self._running = running

    def abort(self, problem: RequestError) -> None:
        """End the stream with an error."""
        self._tokens.abort(problem)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        gone = asyncio.ensure_future(disconnected(Request(scope, receive)))
        writing = asyncio.ensure_future(self._write(send))
        self._running.add(self)
        left = self._job.deadline + GRACE_SECONDS - time.monotonic()
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self._start})
            await asyncio.wait([gone, writing], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        finally:
            self._running.discard(self)
            gone.cancel()
            writing.cancel()
            self._finish()

    async def _write(self, send: Send) -> None:
        part: object = self._first
        while isinstance(part, Part):
            await send({"type": "http.response.body", "body": part.body, "more_body": True})
            part.sent(len(part.body))
            part = await self._tokens.next()
        try:
            if isinstance(part, Ended) and part.problem is not None:
                raise part.problem
            await self._job.future
        except Exception as problem:
            error = await self._explain(problem)
            if not self._first.is_events:
                return
            body = event({"error": error.message, "error_type": error.code})
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
