"""Text while it is generated: server-sent events in the format of text-generation-inference.

`huggingface_hub.InferenceClient.text_generation(..., stream=True)` reads them.
"""

import asyncio
from typing import Any, Callable, Dict, MutableMapping, Optional

from starlette.requests import Request
from starlette.responses import Response

from hf_inference_toolkit.content import payload
from hf_inference_toolkit.scheduling.job import Job
from hf_inference_toolkit.tasks.service import Token

TYPE = "text/event-stream"


class TokenStream:
    """The tokens of a job, on their way from the model's thread to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_event_loop()
        self._tokens: "asyncio.Queue[Optional[Token]]" = asyncio.Queue()

    def __call__(self, token: Token) -> None:
        """Called in the model's thread."""
        self._loop.call_soon_threadsafe(self._tokens.put_nowait, token)

    def end(self, *_: Any) -> None:
        """No token follows. Called in the event loop."""
        self._tokens.put_nowait(None)

    async def next(self) -> Optional[Token]:
        """The next token; None when there are no more."""
        return await self._tokens.get()


class EventStream(Response):  # type: ignore[misc]
    """A response that is sent while it is generated. `finish` is called once, however it ends."""

    def __init__(
        self,
        job: Job,
        first: Optional[Token],
        tokens: TokenStream,
        explain: Callable[[Exception], Any],
        finish: Callable[[], None],
    ) -> None:
        super().__init__(None, 200, {"Content-Type": TYPE, "Cache-Control": "no-cache"})
        # The base class believes that it knows the length.
        self._start = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        self._job = job
        self._first = first
        self._tokens = tokens
        self._explain = explain
        self._finish = finish

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Send events until the text ends or the client disconnects."""
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
            following = await self._tokens.next()
            # The last token's event has the whole text.
            end = None if following is not None else await self._end()
            await send(_event(dict(_described(token, index), **(end or {}))))
            token = following
        if not index:
            await send(_event(await self._end()))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _end(self) -> Dict[str, Any]:
        """What only the last event has: the whole text, or the error."""
        try:
            prediction = await self._job.future
        except Exception as problem:
            error = await self._explain(problem)
            return {"error": error.message, "error_type": error.code}
        # `[{"generated_text": ..., "details": ...}]`, or `summary_text` and so on.
        result = dict(prediction.value[0])
        details = result.pop("details", None) or {}
        details = {name: value for name, value in details.items() if name not in ("prefill", "tokens")}
        return {"generated_text": next(iter(result.values())), "details": details or None}


def _described(token: Token, index: int) -> Dict[str, Any]:
    return {"index": index, "token": token.described(), "generated_text": None, "details": None}


def _event(value: Dict[str, Any]) -> Dict[str, Any]:
    body = b"data: " + payload.write_json(value) + b"\n\n"
    return {"type": "http.response.body", "body": body, "more_body": True}


async def disconnected(request: Request) -> None:
    """Returns when the client disconnects."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
