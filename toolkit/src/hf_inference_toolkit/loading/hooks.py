"""A service made of the user's functions, with ours where the user has none."""

from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

from hf_inference_toolkit.content import codecs, payload
from hf_inference_toolkit.errors import InferenceError
from hf_inference_toolkit.loading.user_code import Hooks
from hf_inference_toolkit.tasks.service import Check, Prediction, Service


class Raw(NamedTuple):
    """A body that only user code understands, with the types that came with it."""

    body: bytes
    content_type: codecs.MediaType
    accept: str


class DefaultModel:
    """What `predict_fn` gets as its model when there is no `model_fn`: call it with inputs and parameters."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.task = service.task
        runtime = getattr(service, "runtime", None)
        self.model = getattr(runtime, "model", None)
        self.tokenizer = getattr(service, "tokenizer", None)

    def __call__(self, inputs: Any, **parameters: Any) -> Any:
        """The prediction for inputs, as /invocations would answer them."""
        return self.service.predict(payload.Request(inputs, parameters, []), lambda: None).value


class HookService(Service):
    """Runs the user's functions, all of them in the prediction's thread: they need not be safe in several."""

    negotiates = False

    def __init__(self, hooks: Hooks, model: Any, facts: Dict[str, str]) -> None:
        super().__init__("user code", dict(facts, code=str(hooks.source)))
        self._hooks = hooks
        self._model = model

    def read(self, body: bytes, content_type: codecs.MediaType, accept: str) -> payload.Request:
        """The body as it came."""
        return payload.Request(Raw(body, content_type, accept), {}, [])

    def predict(self, request: payload.Request, check: Check) -> Prediction:
        """The user's functions one after the other; the value is the answer's body and its content type."""
        raw = request.inputs
        check()
        try:
            return Prediction(self._answer(raw))
        except Exception as problem:
            raise _with_status(problem) from problem

    def _answer(self, raw: Raw) -> Tuple[bytes, str]:
        functions = self._hooks.functions
        if "transform_fn" in functions:
            answer = functions["transform_fn"](self._model, _as_sent(raw), raw.content_type.name, raw.accept)
            return _body(answer, raw.accept)
        if "input_fn" in functions:
            data = functions["input_fn"](_as_sent(raw), raw.content_type.name)
        else:
            data = _decoded(raw)
        value = functions["predict_fn"](data, self._model) if "predict_fn" in functions else self._call(data)
        if "output_fn" in functions:
            return _body(functions["output_fn"](value, raw.accept), raw.accept)
        return _written(value, raw.accept)

    def _call(self, data: Any) -> Any:
        if self._hooks.handler is not None:
            return self._model(data)
        if not isinstance(data, dict):
            return self._model(data)
        return self._model(data.get("inputs", data), **(data.get("parameters") or {}))

    def write(self, value: Any, accept: str) -> Tuple[bytes, str]:
        """Written already."""
        return value  # type: ignore[no-any-return]


def _as_sent(raw: Raw) -> Any:
    """Text as a string and everything else as bytes, as SageMaker's toolkits hand it over."""
    if raw.content_type.name.startswith("text/") or "json" in raw.content_type.name:
        return payload.decode(raw.body, raw.content_type.parameters.get("charset"))
    return raw.body


def _decoded(raw: Raw) -> Any:
    """The body as a value; user code sees the same keys as the client sent."""
    codecs.content_type(raw.content_type.name)
    media = codecs.sniff(raw.content_type, raw.body)
    if media.name == codecs.JSON:
        return payload.read_json(raw.body, media.parameters.get("charset"))
    request = codecs.read(raw.body, media)
    return {"inputs": request.inputs, "parameters": request.parameters}


def _body(answer: Any, accept: str) -> Tuple[bytes, str]:
    """What output_fn or transform_fn returned: a body, or a body and its content type."""
    if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], str):
        answer, accept = answer
    if isinstance(answer, (bytes, bytearray)):
        return bytes(answer), accept
    if isinstance(answer, str):
        return answer.encode("utf-8"), accept
    return _written(answer, accept)


def _written(value: Any, accept: str) -> Tuple[bytes, str]:
    chosen = codecs.accepted(accept, codecs.JSON)
    return codecs.write(value, chosen), chosen


def _with_status(problem: Exception) -> Exception:
    """Errors of SageMaker's own toolkits carry a status and a message as ours do."""
    status, message = getattr(problem, "status_code", None), getattr(problem, "message", None)
    if isinstance(status, int) and 400 <= status <= 599 and isinstance(message, str):
        return InferenceError(status, message)
    return problem


def build(hooks: Hooks, folder: str, default: Callable[[], Service]) -> Service:
    """The service of these hooks; `default` loads the model when the user has no `model_fn`."""
    standard: Optional[Service] = None
    if hooks.handler is not None:
        model = hooks.handler(folder)
    elif "model_fn" in hooks.functions:
        model = hooks.functions["model_fn"](folder)
    else:
        standard = default()
        model = DefaultModel(standard)
    return HookService(hooks, model, standard.facts if standard else {"model": folder})
