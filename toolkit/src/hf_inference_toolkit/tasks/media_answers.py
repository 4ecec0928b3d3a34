"""Answers that are one image or one sound, as the bytes of a file."""

import base64
import io
import wave
from typing import Dict, Tuple

import numpy

from hf_inference_toolkit.content import codecs
from hf_inference_toolkit.errors import RequestError

# Tasks whose answer holds several images, such as the masks of image-segmentation, are not here.
TYPES: Dict[str, Tuple[str, ...]] = {
    "depth-estimation": (codecs.PNG,),
    "image-to-image": (codecs.PNG,),
    "text-to-audio": (codecs.WAV,),
}


def write(value: object, accept: str) -> bytes:
    """The file in an answer's JSON form; 406 if the answer is not exactly one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if accept == codecs.PNG:
        encoded = value.get("depth") if isinstance(value, dict) else value
        if isinstance(encoded, str):
            return base64.b64decode(encoded)
    elif isinstance(value, dict) and "audio" in value:
        return _wav(numpy.asarray(value["audio"], numpy.float32).ravel(), int(value["sampling_rate"]))
    raise RequestError(
        "not_acceptable",
        "the answer is not one {}; request Accept: {}".format(accept.split("/")[0], codecs.JSON),
    )


def _wav(samples: numpy.ndarray, rate: int) -> bytes:
    """One channel of 16 bit, which every player reads."""
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes((numpy.clip(numpy.nan_to_num(samples), -1, 1) * 32767).astype("<i2").tobytes())
    return out.getvalue()
