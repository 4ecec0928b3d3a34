"""The service for user code. The standard steps replace missing functions."""

import asyncio
import importlib.util
import inspect
import sys
import threading
from pathlib import Path
from typing import (
    AsyncIterator,
    Awaitable,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    Union,
    cast,
)

from hf_inference_toolkit.annotations import Answer, JsonObject, Output, UserFunction
from hf_inference_toolkit.content import codecs, payload
from hf_inference_toolkit.errors import InferenceError, RequestError
from hf_inference_toolkit.loading import answers, user_code
from hf_inference_toolkit.loading.context import Context, RequestProcessor
from hf_inference_toolkit.loading.default_model import DefaultModel
from hf_inference_toolkit.loading.user_code import Hooks
from hf_inference_toolkit.tasks.media import decode
from hf_inference_toolkit.tasks.service import (
    BatchRow,
    Check,
    Part,
    Prediction,
    Reader,
    Service,
    Steps,
    no_check,
)

# How often the deadline and the client of a coroutine of user code are checked.
CHECK_SECONDS = 0.05
# Headers that user code cannot set: wrong values would break the connection.
SERVER_HEADERS = ("connection", "content-length", "content-type", "transfer-encoding")


class Raw(NamedTuple):
    """A request's unparsed body, types and headers, for user code."""

    body: bytes
    content_type: codecs.MediaType
    accept: str
    headers: Mapping[str, str] = {}
    request_id: str = ""

    @property
    def accepted(self) -> str:
        """The Accept header, or the default type."""
        return self.headers.get("accept") or self.accept


class HookService(Service):
    """Runs the user's functions, all of them in the prediction thread: they need not be thread-safe."""

    negotiates = False
    may_stream = True

    def __init__(self, hooks: Hooks, model: object, context: Context, facts: Dict[str, str]) -> None:
        super().__init__("user code", dict(facts, code=str(hooks.source)))
        self._hooks = hooks
        self._model = model
        self._context = context
        self._predict = _prediction(hooks, model)
        # An input of a batched function is a row of length 1.
        self.kept_tokens = hooks.batch or None

    def read(self, body: bytes, content_type: codecs.MediaType, accept: str) -> payload.Request:
        """See Service. The body is not parsed."""
        return payload.Request(Raw(body, content_type, accept), {}, [])

    def with_headers(
        self, request: payload.Request, headers: Mapping[str, str], request_id: str
    ) -> payload.Request:
        """See Service."""
        raw = cast(Raw, request.inputs)._replace(headers=headers, request_id=request_id)
        return request._replace(inputs=raw)

    def predict(self, request: payload.Request, check: Check) -> Prediction:
        """See Service. Without batching and streaming."""
        steps = self.steps(request, check)
        try:
            pieces = next(steps)
            while True:
                pieces = steps.send(self.run(pieces, check))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def steps(self, request: payload.Request, check: Check, reader: Reader = None) -> Steps:
        """See Service. An input of a batched function is a row; any other function is called here."""
        raw = cast(Raw, request.inputs)
        processor = RequestProcessor(raw.headers, raw.request_id)
        context = self._context.for_requests([processor])
        check()
        try:
            if self._hooks.batch:
                (value,) = yield [BatchRow((self._input(raw, context, check), processor), 1)]
                if isinstance(value, Exception):
                    raise value
            else:
                value = self._value(raw, context, check)
            value, written = self._output(value, raw, context, check)
            if answers.is_stream(value):
                return self._stream(value, raw, processor, check, reader)
        except Exception as problem:
            raise _with_status(problem) from problem
        return _prediction_of(value, written, processor)

    def run(self, pieces: List[BatchRow], check: Check) -> List[Output]:
        """See Service. If a batched function returns a wrong number of results, each output is an exception."""
        inputs = [piece.row[0] for piece in pieces]
        context = self._context.for_requests([piece.row[1] for piece in pieces])
        returned: Output = self._finished(self._predict(inputs, context), check)
        name = "EndpointHandler" if self._hooks.handler else "predict_fn"
        try:
            outputs: List[Output] = list(returned)
        except TypeError:
            outputs = [returned]
        if len(outputs) != len(inputs):
            message = (
                "{} has batch = True and must return one result for each input: it got {} and returned {}"
            )
            return [RequestError("internal", message.format(name, len(inputs), len(outputs)))] * len(inputs)
        return outputs

    def _value(self, raw: Raw, context: Context, check: Check) -> object:
        functions = self._hooks.functions
        if "transform_fn" in functions:
            kind, accept = raw.content_type.name, raw.accept
            return self._finished(
                functions["transform_fn"](self._model, _as_sent(raw), kind, accept, context), check
            )
        if isinstance(self._model, DefaultModel):
            self._model.during(check)
            if "input_fn" not in functions and "predict_fn" not in functions:
                return self._model.answer(raw.body, raw.content_type, codecs.JSON)
        return self._finished(self._predict(self._input(raw, context, check), context), check)

    def _input(self, raw: Raw, context: Context, check: Check) -> object:
        if "input_fn" not in self._hooks.functions:
            return _decoded(raw)
        function = self._hooks.functions["input_fn"]
        return self._finished(function(_as_sent(raw), raw.content_type.name, context), check)

    def _output(self, value: object, raw: Raw, context: Context, check: Check) -> Tuple[object, str]:
        """A stream or a body, and its content type, which is empty if user code did not choose one."""
        if "output_fn" in self._hooks.functions:
            value = self._finished(self._hooks.functions["output_fn"](value, raw.accept, context), check)
        elif "transform_fn" not in self._hooks.functions:
            if answers.is_stream(value):
                return value, ""
            return answers.write(value, context.get_response_content_type(0) or "", raw.accepted)
        written = raw.accept
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str):
            value, written = value
        if answers.is_stream(value):
            return value, "" if written == raw.accept else written
        if isinstance(value, (bytes, bytearray)):
            return bytes(value), written
        if isinstance(value, str):
            return value.encode("utf-8"), written
        return answers.write(value, context.get_response_content_type(0) or "", raw.accepted)

    def _stream(
        self, value: object, raw: Raw, processor: RequestProcessor, check: Check, reader: Reader
    ) -> Prediction:
        """Send each item when it is produced. A failure before the first item gets an ordinary error response."""
        parts: List[bytes] = []
        stream: Optional[answers.Stream] = None
        items = self._items(value, check)
        window = answers.Window()
        try:
            for item in items:
                if stream is None:
                    given = processor.get_response_header("Content-Type")
                    stream = answers.Stream(item, raw.headers.get("accept"), given)
                body = stream.encode(item)
                if reader is None:
                    parts.append(body)
                else:
                    head = _prediction_of(None, stream.content_type, processor)
                    window.take(len(body), check)
                    reader(Part(body, head, stream.is_events, window.give))
        finally:
            items.close()  # type: ignore[attr-defined]
        # No items are no JSON, but they are JSON Lines.
        empty = codecs.JSON_LINES if raw.accept == codecs.JSON else raw.accept
        kind = stream.content_type if stream else empty
        return _prediction_of(b"".join(parts), kind, processor)

    def _items(self, value: object, check: Check) -> Iterator[object]:
        """The items of an iterator or asynchronous iterator, which is closed if its client disconnects."""
        is_asynchronous = hasattr(value, "__anext__")
        try:
            while True:
                check()
                try:
                    item = self._next(value, is_asynchronous, check)
                except (StopIteration, StopAsyncIteration):
                    return
                yield item
        finally:
            if is_asynchronous and hasattr(value, "aclose"):
                self._finished(value.aclose(), no_check)
            elif hasattr(value, "close"):
                value.close()

    def _next(self, value: object, is_asynchronous: bool, check: Check) -> object:
        if is_asynchronous:
            return self._finished(cast(AsyncIterator[object], value).__anext__(), check)
        return next(cast(Iterator[object], value))

    def _finished(self, value: object, check: Check) -> object:
        return finished(value, check)

    def write(self, value: Answer, accept: str) -> Tuple[bytes, str]:
        """See Service. User code has written the body."""
        return value  # type: ignore[no-any-return]


def _prediction_of(body: object, content_type: str, processor: RequestProcessor) -> Prediction:
    content_type = processor.get_response_header("Content-Type") or content_type
    given = processor.get_response_headers()
    headers = {name: value for name, value in given.items() if name.lower() not in SERVER_HEADERS}
    return Prediction((body, content_type), status=processor.get_response_status_code(), headers=headers)


_LOOPS = threading.local()


def finished(value: object, check: Check) -> object:
    """A value, or the result of a coroutine, run in this thread's event loop. `check` may raise to cancel it."""
    if not inspect.isawaitable(value):
        return value
    loop = getattr(_LOOPS, "loop", None)
    if loop is None:
        loop = _LOOPS.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    return loop.run_until_complete(_awaited(value, check))


async def _awaited(value: Awaitable[object], check: Check) -> object:
    task = asyncio.ensure_future(value)
    while True:
        await asyncio.wait([task], timeout=CHECK_SECONDS)
        if task.done():
            return task.result()
        try:
            check()
        except BaseException:
            task.cancel()
            await asyncio.wait([task])
            raise


def _prediction(hooks: Hooks, model: object) -> Callable[[object, Context], object]:
    """The function that predicts for one decoded input, or for a batch of them."""
    if hooks.handler is not None:
        return user_code.call_handler(cast(UserFunction, model))
    if "predict_fn" in hooks.functions:
        function = hooks.functions["predict_fn"]
        return lambda data, context: function(data, model, context)
    return lambda data, _: _call(cast(UserFunction, model), data)


def _call(model: UserFunction, data: object) -> object:
    if not isinstance(data, dict):
        return model(data)
    return model(data.get("inputs", data), **(data.get("parameters") or {}))


def _as_sent(raw: Raw) -> Union[str, bytes]:
    """Text as a string and everything else as bytes, as SageMaker's toolkits pass it."""
    if raw.content_type.name.startswith("text/") or "json" in raw.content_type.name:
        return payload.decode(raw.body, raw.content_type.parameters.get("charset"))
    return raw.body


def _decoded(raw: Raw) -> object:
    """The parsed body; a JSON document is passed unchanged."""
    codecs.content_type(raw.content_type.name)
    kind = codecs.sniff(raw.content_type, raw.body)
    if kind.name == codecs.JSON:
        return payload.read_json(raw.body, kind.parameters.get("charset"))
    if kind.name.startswith(("image/", "audio/")):
        return {"inputs": decode(raw.body, kind.name), "parameters": {}}
    request = codecs.read(raw.body, kind)
    return {"inputs": request.inputs, "parameters": request.parameters}


def _with_status(problem: Exception) -> Exception:
    """Convert errors of AWS's toolkits and multi-model-server, which have a status and a message, to InferenceError."""
    status = getattr(problem, "status_code", getattr(problem, "error_code", None))
    message = getattr(problem, "message", None)
    if isinstance(status, int) and 400 <= status <= 599 and isinstance(message, str):
        return InferenceError(status, message)
    return problem


def build(
    hooks: Hooks, folder: Callable[[], Path], default: Callable[[], Service], name: str = "model"
) -> Service:
    """Create the service.

    `folder` returns the model's folder. `default` loads the standard model; it is called if there is no `model_fn`.
    `name` is the name of the model in the context.
    """
    try:
        service = _built(hooks, folder, default, name)
    except BaseException:
        hooks.forget()
        raise
    service.on_close.append(hooks.forget)
    return service


def _built(hooks: Hooks, folder: Callable[[], Path], default: Callable[[], Service], name: str) -> Service:
    standard: Optional[Service] = None
    if hooks.loads_model:
        path = str(folder())
        context = Context(path, _gpu_id(), _manifest(name))
        if hooks.handler is not None:
            model = hooks.handler(path)
        else:
            model = finished(hooks.functions["model_fn"](path, context), no_check)
    else:
        standard = default()
        path = str(standard.facts.get("model", ""))
        context = Context(path, _gpu_id(), _manifest(name))
        model = DefaultModel(standard)
    return HookService(hooks, model, context, standard.facts if standard else {"model": path})


def _manifest(name: str) -> JsonObject:
    return {"model": {"modelName": name, "handler": "hf_inference_toolkit"}, "modelServerVersion": "1.0"}


def _gpu_id() -> Optional[int]:
    """The index of the GPU to use. One process serves one model on the first GPU that it can see."""
    if "torch" not in sys.modules and not any(Path("/dev").glob("nvidia[0-9]*")):
        return None  # do not import a framework, which takes seconds
    if importlib.util.find_spec("torch") is not None:
        import torch

        return 0 if torch.cuda.is_available() else None
    if importlib.util.find_spec("tensorflow") is not None:
        import tensorflow

        return 0 if tensorflow.config.list_physical_devices("GPU") else None
    return None
