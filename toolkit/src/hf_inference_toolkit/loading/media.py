"""Images and sound of a request's body, decoded for user code."""

import io
import wave
from typing import Any

from hf_inference_toolkit.errors import RequestError


def decode(body: bytes, content_type: str) -> Any:
    """A PIL image for image/*; `{"raw": array, "sampling_rate": hertz}` for audio/*, one channel of float32."""
    return _sound(body) if content_type.startswith("audio/") else _image(body)


def _image(body: bytes) -> Any:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(body))
        image.load()
    except MemoryError:
        raise
    except Exception as problem:  # Pillow raises many classes for broken and for hostile files
        raise RequestError("malformed", "the image cannot be read: {}".format(problem)) from None
    return image.convert("RGB")


def _sound(body: bytes) -> Any:
    import numpy

    try:
        with wave.open(io.BytesIO(body)) as sound:
            kind = {1: numpy.uint8, 2: numpy.int16, 4: numpy.int32}[sound.getsampwidth()]
            samples = numpy.frombuffer(sound.readframes(sound.getnframes()), dtype=kind)
            samples = samples.reshape(-1, sound.getnchannels()).mean(axis=1)
            rate = sound.getframerate()
    except (wave.Error, EOFError, KeyError, ValueError) as problem:
        raise RequestError("malformed", "the sound cannot be read: {}".format(problem)) from None
    scaled = (samples - 128.0) / 128.0 if kind is numpy.uint8 else samples / float(numpy.iinfo(kind).max)
    return {"raw": scaled.astype(numpy.float32), "sampling_rate": rate}
