"""Server-sent events: text while it is generated, and comments while there is none."""

import asyncio
import time
from typing import Awaitable, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from starlette.requests import Request
from starlette.responses import Response

from hf_inference_toolkit.content import payload
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.http.asgi import Receive, Scope, Send
from hf_inference_toolkit.scheduling.job import Job
from hf_inference_toolkit.tasks.service import Prediction

TYPE = "text/event-stream"
KEEP_ALIVE = b": keep-alive\n\n"
# After so many seconds without an event a comment is written, so that proxies keep the connection. After the same time
# without a first event the head of the response is written.
KEEP_ALIVE_SECONDS = 10.0
# A stream whose prediction does not end is closed this long after its deadline.
GRACE_SECONDS = 1.0


class Ended(NamedTuple):
    """The last item of a stream; `problem` is a reason other than the end of the prediction."""

    problem: Optional[RequestError] = None


class TokenStream:
    """The tokens of a job, on their way from the model's thread to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_event_loop()
        self._tokens: "asyncio.Queue[object]" = asyncio.Queue()
        # Its result is set with the first token, or with the end.
        self.begun = self._loop.create_future()

    def __call__(self, token: object) -> None:
        """Called in the model's thread."""
        self._loop.call_soon_threadsafe(self._put, token)

    def end(self, *_: object) -> None:
        """No token follows. Called in the event loop."""
        self._put(Ended())

    def abort(self, problem: RequestError) -> None:
        """End the stream before its prediction. Called in the event loop."""
        self._put(Ended(problem))

    def _put(self, token: object) -> None:
        self._tokens.put_nowait(token)
        if not self.begun.done():
            self.begun.set_result(None)

    @property
    def is_empty(self) -> bool:
        """Whether a token has to be waited for."""
        return self._tokens.empty()

    async def next(self) -> object:
        """The next token, or Ended."""
        return await self._tokens.get()


class RunningStream:
    """A job whose tokens are streamed. `finish` cancels it, `explain` turns an exception into an error response."""

    def __init__(
        self,
        job: Job,
        tokens: TokenStream,
        explain: Callable[[Exception], Awaitable[RequestError]],
        finish: Callable[[], None],
    ) -> None:
        self.job = job
        self.tokens = tokens
        self.explain = explain
        self.finish = finish

    @property
    def has_failed(self) -> bool:
        """Whether it failed before the first token."""
        return not self.job.has_streamed and self.job.future.done()


class EventWriter:
    """The form of the events of one request. Each method returns the bytes of any number of events."""

    def token(self, token: object) -> bytes:
        """What is written for a token."""
        raise NotImplementedError

    def end(self, prediction: Prediction) -> bytes:
        """What is written when all tokens have been."""
        raise NotImplementedError

    def error(self, error: RequestError) -> bytes:
        """What is written in place of the end."""
        raise NotImplementedError


def event(value: object) -> bytes:
    """One event."""
    return b"data: " + payload.write_json(value) + b"\n\n"


class StreamedResponse(Response):  # type: ignore[misc]
    """A response that is sent while it is generated. Its stream is finished once, however it ends.

    It is one of `responses` while it is sent.
    """

    def __init__(
        self, stream: RunningStream, status: int, headers: Dict[str, str], responses: "Set[StreamedResponse]"
    ) -> None:
        super().__init__(None, status, dict(headers, **{"Cache-Control": "no-cache"}))
        # The base class adds a Content-Length, but the length is not known.
        self._start: List[Tuple[bytes, bytes]] = [
            pair for pair in self.raw_headers if pair[0].lower() != b"content-length"
        ]
        self._stream = stream
        self._responses = responses

    def abort(self, problem: RequestError) -> None:
        """End the stream with an error."""
        self._stream.tokens.abort(problem)


class EventStream(StreamedResponse):
    """A stream of events, with comments while there is no event."""

    def __init__(self, stream: RunningStream, writer: EventWriter, responses: Set[StreamedResponse]) -> None:
        super().__init__(stream, 200, {"Content-Type": TYPE}, responses)
        self._writer = writer
        self._written = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the text ends or the client disconnects."""
        left = self._stream.job.deadline + GRACE_SECONDS - time.monotonic()
        late = RequestError("deadline_exceeded", "no response before the deadline of the request")
        timer = asyncio.get_event_loop().call_later(max(0.0, left), self.abort, late)
        gone = asyncio.ensure_future(disconnected(Request(scope, receive)))
        writing = asyncio.ensure_future(self._write(send))
        keeping = asyncio.ensure_future(self._keep_alive(send))
        self._responses.add(self)
        try:
            await asyncio.wait([gone, writing], return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        finally:
            self._responses.discard(self)
            timer.cancel()
            for task in (gone, writing, keeping):
                task.cancel()
            self._stream.finish()

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._start})
        while True:
            token = await self._stream.tokens.next()
            last = isinstance(token, Ended)
            body = await self._end(token) if isinstance(token, Ended) else self._writer.token(token)
            if body:
                self._written = time.monotonic()
                await send({"type": "http.response.body", "body": body, "more_body": True})
            if last:
                break
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_alive(self, send: Send) -> None:
        while True:
            idle = time.monotonic() - self._written
            await asyncio.sleep(max(0.01, KEEP_ALIVE_SECONDS - idle))
            if time.monotonic() - self._written >= KEEP_ALIVE_SECONDS and self._stream.tokens.is_empty:
                self._written = time.monotonic()
                await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})

    async def _end(self, ended: Ended) -> bytes:
        if ended.problem is not None:
            return self._writer.error(ended.problem)
        try:
            prediction = await self._stream.job.future
        except Exception as problem:
            return self._writer.error(await self._stream.explain(problem))
        return self._writer.end(prediction)


class TokenEvents(EventWriter):
    """Events in the form of text-generation-inference: one for each token; the last one also has the whole text.

    `huggingface_hub.InferenceClient.text_generation(..., stream=True)` reads them.
    """

    def __init__(self) -> None:
        self._index = 0
        self._held: Optional[Dict[str, object]] = None

    def token(self, token: object) -> bytes:
        """See EventWriter. A token is written when the next one is known, because the last one has more to say."""
        self._index += 1
        described = {
            "index": self._index,
            "token": token.described(),  # type: ignore[attr-defined]
            "generated_text": None,
            "details": None,
        }
        held, self._held = self._held, described
        return event(held) if held else b""

    def end(self, prediction: Prediction) -> bytes:
        """See EventWriter."""
        # `[{"generated_text": ..., "details": ...}]`, or `summary_text` and so on.
        result = dict(prediction.value[0])
        details = result.pop("details", None) or {}
        details = {
            name: value for name, value in details.items() if name not in ("prefill", "tokens", "top_tokens")
        }
        return event(
            dict(self._held or {}, generated_text=next(iter(result.values())), details=details or None)
        )

    def error(self, error: RequestError) -> bytes:
        """See EventWriter."""
        return event(dict(self._held or {}, error=error.message, error_type=error.code))


async def disconnected(request: Request) -> None:
    """Returns when the client disconnects."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
