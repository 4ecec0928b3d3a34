"""Every other pipeline of the installed transformers, as it is."""

import base64
import binascii
import inspect
import io
import wave
from typing import Any, Dict, List

from hf_inference_toolkit.content import codecs
from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.tasks.service import Check, Prediction, Service
from hf_inference_toolkit.tasks.warm_up import warm_up_pipeline

# These would let a request choose the server's resources, or its files.
REFUSED = frozenset(("num_workers", "batch_size", "device", "framework", "model", "tokenizer", "timeout"))


class PipelineTask(Service):
    """A pipeline behind the same requests; inputs go in as they are, but neither as paths nor as addresses."""

    def __init__(self, task: str, pipeline: Any, facts: Dict[str, str]) -> None:
        super().__init__(task, facts)
        self._pipeline = pipeline

    def read(self, body: bytes, content_type: codecs.MediaType, accept: str) -> Request:
        """A request; the bytes of an image or a sound as what the pipeline takes."""
        request = super().read(body, content_type, accept)
        for name in request.parameters:
            if name in REFUSED:
                raise RequestError(
                    "unsupported_value", "parameter '{}' is not the client's to set".format(name)
                )
        if isinstance(request.inputs, bytes):
            return request._replace(inputs=self._opened(request.inputs, content_type.name))
        if self._takes_media():
            return request._replace(inputs=self._from_text(request.inputs))
        return request

    def _takes_media(self) -> bool:
        """Whether its strings would be read as paths or addresses: nothing on this machine is the client's to name."""
        return any(
            word in self.task
            for word in (
                "image",
                "audio",
                "speech",
                "object",
                "depth",
                "visual",
                "video",
                "mask-generation",
                "document",
                "keypoint",
                "any-to-any",
            )
        )

    def _from_text(self, inputs: Any) -> Any:
        if isinstance(inputs, list):
            return [self._from_text(item) for item in inputs]
        if isinstance(inputs, dict):
            return {
                key: (self._from_text(value) if key in ("image", "images", "audio") else value)
                for key, value in inputs.items()
            }
        if not isinstance(inputs, str):
            return inputs
        if self.task in ("text-to-audio", "text-to-speech"):
            return inputs
        try:
            content = base64.b64decode(inputs.rpartition(",")[2], validate=True)
        except (binascii.Error, ValueError):
            raise RequestError(
                "unsupported_value",
                "an image or a sound goes into JSON as base64, or is sent as the "
                "body with its own Content-Type",
            ) from None
        return self._opened(
            content, "audio/*" if "audio" in self.task or "speech" in self.task else "image/*"
        )

    def _opened(self, content: bytes, name: str) -> Any:
        return _sound(content) if name.startswith("audio/") else _image(content)

    def predict(self, request: Request, check: Check) -> Prediction:
        """See Service."""
        check()
        inputs = request.inputs
        if isinstance(inputs, dict) and self._takes_keywords(inputs):
            value = self._pipeline(**dict(inputs, **request.parameters))
        else:
            value = self._pipeline(inputs, **request.parameters)
        return Prediction(_plain(value), items=len(inputs) if isinstance(inputs, list) else 1)

    def warm_up(self, check: Check) -> None:
        """See Service; nothing where no input suits all models of the task."""
        warm_up_pipeline(self, self._pipeline, check)

    def _takes_keywords(self, inputs: Dict[str, Any]) -> bool:
        names = inspect.signature(type(self._pipeline).__call__).parameters
        return all(key in names for key in inputs)


def _image(content: bytes) -> Any:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except MemoryError:
        raise
    except Exception as problem:  # Pillow raises many kinds for broken and for hostile files
        raise RequestError("malformed", "the image cannot be read: {}".format(problem)) from None
    return image.convert("RGB")


def _sound(content: bytes) -> Any:
    """WAV is read here; every other format is left to the pipeline, which asks ffmpeg."""
    if content[:4] != b"RIFF":
        return content
    import numpy

    try:
        with wave.open(io.BytesIO(content)) as sound:
            kind = {1: numpy.uint8, 2: numpy.int16, 4: numpy.int32}[sound.getsampwidth()]
            samples = numpy.frombuffer(sound.readframes(sound.getnframes()), dtype=kind)
            samples = samples.reshape(-1, sound.getnchannels()).mean(axis=1)
            rate = sound.getframerate()
    except (wave.Error, EOFError, KeyError, ValueError) as problem:
        raise RequestError("malformed", "the sound cannot be read: {}".format(problem)) from None
    scaled = (samples - 128.0) / 128.0 if kind is numpy.uint8 else samples / float(numpy.iinfo(kind).max)
    return {"raw": scaled.astype(numpy.float32), "sampling_rate": rate}


def _plain(value: Any) -> Any:
    """Images as base64 PNG, arrays and tensors as lists: what JSON can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if type(value).__module__.startswith("PIL."):
        out = io.BytesIO()
        value.save(out, format="PNG")
        return base64.b64encode(out.getvalue()).decode("ascii")
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def known_tasks() -> List[str]:
    """The names of the pipelines that the installed transformers has."""
    from transformers import pipelines

    if hasattr(pipelines, "get_supported_tasks"):
        return list(pipelines.get_supported_tasks())
    return list(pipelines.SUPPORTED_TASKS)
