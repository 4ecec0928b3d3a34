"""Streaming responses of user code."""

import asyncio
import time
from typing import Set

from starlette.requests import Request

from hf_inference_toolkit.http.asgi import Receive, Scope, Send
from hf_inference_toolkit.http.events import (
    GRACE_SECONDS,
    Ended,
    RunningStream,
    StreamedResponse,
    disconnected,
    event,
)
from hf_inference_toolkit.tasks.service import Part


class PartStream(StreamedResponse):
    """Sends parts until the stream ends, the deadline passes or the client disconnects.

    An error after the first part is an event if the body consists of events. Otherwise the connection is closed
    without the last chunk, so that the client detects an incomplete body.
    """

    def __init__(self, stream: RunningStream, first: Part, responses: Set[StreamedResponse]) -> None:
        headers = dict(first.head.headers, **{"Content-Type": first.head.value[1]})
        super().__init__(stream, first.head.status, headers, responses)
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        gone = asyncio.ensure_future(disconnected(Request(scope, receive)))
        writing = asyncio.ensure_future(self._write(send))
        self._responses.add(self)
        left = self._stream.job.deadline + GRACE_SECONDS - time.monotonic()
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self._start})
            await asyncio.wait([gone, writing], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        finally:
            self._responses.discard(self)
            gone.cancel()
            writing.cancel()
            self._stream.finish()

    async def _write(self, send: Send) -> None:
        part: object = self._first
        while isinstance(part, Part):
            await send({"type": "http.response.body", "body": part.body, "more_body": True})
            part.sent(len(part.body))
            part = await self._stream.tokens.next()
        try:
            if isinstance(part, Ended) and part.problem is not None:
                raise part.problem
            await self._stream.job.future
        except Exception as problem:
            error = await self._stream.explain(problem)
            if not self._first.is_events:
                return
            body = event({"error": error.message, "error_type": error.code})
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
