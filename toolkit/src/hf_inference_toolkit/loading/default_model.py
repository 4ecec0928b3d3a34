"""The standard model for user code without `model_fn`."""

import base64
import io
import threading
import wave
from typing import Any, Dict, Tuple

from hf_inference_toolkit.content import codecs, payload
from hf_inference_toolkit.tasks.service import Check, Service

# A placeholder for a decoded image, which cannot be part of a JSON body.
_PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU\x00\x00\x00\n"
    b"IDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82"
).decode("ascii")


class DefaultModel:
    """The model argument of `predict_fn` if there is no `model_fn`. Call it with inputs and parameters.

    Both are checked as in a request, because user code often passes on what a client sent.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.task = service.task
        runtime = getattr(service, "runtime", None)
        self.model = getattr(runtime, "model", None)
        self.tokenizer = getattr(service, "tokenizer", None)
        self._here = threading.local()

    def during(self, check: Check) -> None:
        """Call `check` between the steps of further predictions in this thread."""
        self._here.check = check

    def __call__(self, inputs: Any, **parameters: Any) -> Any:
        """The prediction, as /invocations answers it."""
        return self._predict(_request(self.service, inputs, parameters))

    def answer(self, body: bytes, content_type: codecs.MediaType, accept: str) -> Any:
        """The prediction for a request body."""
        media = codecs.content_type(content_type.name)._replace(parameters=content_type.parameters)
        return self._predict(self.service.read(body, media, accept))

    def _predict(self, request: payload.Request) -> Any:
        return self.service.predict(request, getattr(self._here, "check", _no_check)).value


def _no_check() -> None:
    return None


def _request(service: Service, inputs: Any, parameters: Dict[str, Any]) -> payload.Request:
    plain, media = _without_media(inputs)
    body = payload.write_json({"inputs": plain, "parameters": parameters})
    request = service.read(body, codecs.MediaType(codecs.JSON, {}), codecs.JSON)
    return request._replace(inputs=_with_media(request.inputs, media)) if media else request


def _without_media(value: Any) -> Tuple[Any, Any]:
    """A value with placeholders for decoded media, and the media: by key or index, or the medium itself."""
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(bytes(value)).decode("ascii"), None
    if type(value).__module__.startswith("PIL."):
        return _PNG, _Medium(value)
    if _is_array(value) or (isinstance(value, dict) and _is_array(value.get("raw", value.get("array")))):
        return _silence(), _Medium(value)
    if isinstance(value, dict):
        parts = {key: _without_media(inner) for key, inner in value.items()}
        return {key: part[0] for key, part in parts.items()}, {
            key: part[1] for key, part in parts.items() if part[1]
        }
    if isinstance(value, (list, tuple)):
        items = [_without_media(inner) for inner in value]
        return [item[0] for item in items], {place: item[1] for place, item in enumerate(items) if item[1]}
    return value, None


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and bool(getattr(value, "ndim", 0)) and not hasattr(value, "to_dict")


class _Medium:
    def __init__(self, value: Any) -> None:
        self.value = value


def _with_media(value: Any, media: Any) -> Any:
    if isinstance(media, _Medium):
        # Pipelines remove keys from the dictionary.
        return dict(media.value) if isinstance(media.value, dict) else media.value
    for place, inner in (media or {}).items():
        value[place] = _with_media(value[place], inner)
    return value


def _silence() -> str:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16000)
        sound.writeframes(bytes(3200))
    return base64.b64encode(out.getvalue()).decode("ascii")
