"""Text as it is written: server-sent events, in the form that text-generation-inference gave them.

`huggingface_hub.InferenceClient.text_generation(..., stream=True)` reads them.
"""

import asyncio
from typing import Any, Callable, Dict, List, MutableMapping, Optional

from starlette.requests import Request
from starlette.responses import Response

from hf_inference_toolkit.content import payload
from hf_inference_toolkit.scheduling.scheduler import Job
from hf_inference_toolkit.tasks.service import Token

TYPE = "text/event-stream"


class Readings:
    """The tokens of a job, from the model's thread to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_event_loop()
        self._tokens: "asyncio.Queue[Optional[Token]]" = asyncio.Queue()

    def __call__(self, token: Token) -> None:
        """Called in the model's thread."""
        self._loop.call_soon_threadsafe(self._tokens.put_nowait, token)

    def end(self, *_: Any) -> None:
        """There are no more; called in the loop."""
        self._tokens.put_nowait(None)

    async def next(self) -> Optional[Token]:
        """The next token; None when there are no more."""
        return await self._tokens.get()


class EventStream(Response):  # type: ignore[misc]
    """An answer that is sent while it is written. `finish` is called once, whatever way it ends."""

    def __init__(
        self,
        job: Job,
        first: Optional[Token],
        readings: Readings,
        explain: Callable[[Exception], Any],
        finish: Callable[[], None],
    ) -> None:
        super().__init__(None, 200, {"Content-Type": TYPE, "Cache-Control": "no-cache"})
        # The base class believes that it knows the length.
        self._start = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        self._job = job
        self._first = first
        self._readings = readings
        self._explain = explain
        self._finish = finish

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Send events until the text ends or the client is gone."""
        if scope["http_version"] == "1.0":
            # Such a client knows no chunks, which is how the end of a stream is marked.
            send = _Whole(send)
        gone = asyncio.ensure_future(disconnected(Request(scope, receive)))
        writing = asyncio.ensure_future(self._write(send))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self._start})
            await asyncio.wait([gone, writing], return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        finally:
            gone.cancel()
            writing.cancel()
            self._finish()

    async def _write(self, send: Any) -> None:
        index, token = 0, self._first
        while token is not None:
            index += 1
            following = await self._readings.next()
            # The whole text comes with the last token.
            whole = None if following is not None else await self._text()
            await send(_event(dict(_described(token, index), **(whole or {}))))
            token = following
        if not index:
            await send(_event(await self._text()))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _text(self) -> Dict[str, Any]:
        """The end of the last event: the text, or why there is none."""
        try:
            prediction = await self._job.future
        except Exception as problem:
            error = await self._explain(problem)
            return {"error": error.message, "error_type": error.code}
        return {"generated_text": _only(prediction.value)}


class _Whole:
    """Sends an answer when all of it is there."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self._start: Dict[str, Any] = {}
        self._parts: List[bytes] = []

    async def __call__(self, message: Dict[str, Any]) -> None:
        """Called as ASGI's `send`."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._parts.append(message["body"])
        if not message["more_body"]:
            body = b"".join(self._parts)
            length = (b"content-length", str(len(body)).encode("ascii"))
            await self._send(dict(self._start, headers=[*self._start["headers"], length]))
            await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _only(value: Any) -> Any:
    """The text in `[{"generated_text": ...}]`, whatever the task calls it."""
    return next(iter(value[0].values()))


def _described(token: Token, index: int) -> Dict[str, Any]:
    described = {"id": token.number, "text": token.text, "logprob": None, "special": token.is_special}
    return {"index": index, "token": described, "generated_text": None, "details": None}


def _event(value: Dict[str, Any]) -> Dict[str, Any]:
    body = b"data: " + payload.write_json(value) + b"\n\n"
    return {"type": "http.response.body", "body": body, "more_body": True}


async def disconnected(request: Request) -> None:
    """Returns when the client hangs up."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
