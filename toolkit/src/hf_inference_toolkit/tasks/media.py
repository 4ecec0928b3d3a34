"""Decoding of images and audio in requests, within limits. A string is base64 or a data: URL, never a location."""

import base64
import binascii
import importlib.util
import io
import wave
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple, Union

import numpy

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import JsonObject
from hf_inference_toolkit.content import codecs
from hf_inference_toolkit.content.payload import kind_of
from hf_inference_toolkit.errors import RequestError, first_line

if TYPE_CHECKING:
    import PIL.Image

# Pillow's other formats are rarely used, or start programs: EPS runs Ghostscript.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Samples and their rate in Hz.
Sound = Tuple[numpy.ndarray, int]
BASE64 = "media in JSON must be base64 or a data: URL (other URLs and paths are not read)"


def content_of(value: object) -> bytes:
    """The bytes of an image or of audio in a request."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, dict) and set(value) == {"b64"}:  # the form of Vertex AI
        value = value["b64"]
    if not isinstance(value, str):
        raise RequestError("unsupported_value", "{}, not {}".format(BASE64, kind_of(value)))
    text = value
    if value[:5].lower() == "data:":
        head, comma, text = value.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise RequestError("unsupported_value", "a data: URL must be data:TYPE;base64,CONTENT")
    try:
        # coreutils' base64 and others break lines.
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("unsupported_value", "{}; this is neither".format(BASE64)) from None


def decode(body: bytes, content_type: str) -> Union["PIL.Image.Image", JsonObject]:
    """Decode a body for user code: a PIL image for image/*, a `Decoder.recording` for audio/*."""
    decoder = Decoder()
    return decoder.recording(body) if content_type.startswith("audio/") else decoder.image(body)


class Decoder:
    """Decodes the media of one request, and counts them against the limits of a request.

    `rate` is the model's sampling rate in Hz; `seconds` is the maximum length of all audio.
    """

    def __init__(self, rate: int = 16000, seconds: int = limits.SOUND_SECONDS) -> None:
        self._rate = rate
        self._seconds = seconds
        self._pixels = 0
        self._samples = 0
        self._decoded: List["PIL.Image.Image"] = []
        self._sources: Dict[int, str] = {}

    def source(self, image: "PIL.Image.Image") -> Optional[str]:
        """The text that an image was decoded from, for answers that repeat their input."""
        return self._sources.get(id(image))

    def image(self, value: object) -> "PIL.Image.Image":
        """A PIL image in RGB, rotated by its EXIF orientation. PIL images of user code are returned unchanged."""
        if type(value).__module__.startswith("PIL."):
            return value
        from PIL import Image, ImageOps

        try:
            image = Image.open(io.BytesIO(content_of(value)), formats=IMAGE_FORMATS)
            # Only the header was read so far.
            self._count_pixels(image.size[0] * image.size[1])
            image.load()
            image = ImageOps.exif_transpose(image).convert("RGB")
        except (MemoryError, RequestError):
            raise
        except Image.DecompressionBombError:  # Pillow's own limit is higher
            raise RequestError(
                "unsupported_value",
                "an image has more than {} pixels, which is the limit".format(limits.IMAGE_PIXELS),
            ) from None
        except Exception as problem:  # Pillow raises many exceptions for invalid files
            raise RequestError("malformed", _unreadable("image", problem, IMAGE_FORMATS)) from None
        if isinstance(value, str):
            # Keep a reference, so that no other object gets its id.
            self._decoded.append(image)
            self._sources[id(image)] = value
        return image

    def _count_pixels(self, pixels: int) -> None:
        self._pixels += pixels
        if pixels > limits.IMAGE_PIXELS or self._pixels > limits.REQUEST_PIXELS:
            raise RequestError(
                "unsupported_value",
                "an image has {} pixels, and all images {}; at most {} and {} are allowed".format(
                    pixels, self._pixels, limits.IMAGE_PIXELS, limits.REQUEST_PIXELS
                ),
            )

    def sound(self, value: object) -> numpy.ndarray:
        """Mono float32 samples from -1 to 1 at the model's sampling rate.

        Besides bytes and base64, it accepts `{"raw": [samples], "sampling_rate": Hz}` and an array at the model's rate.
        """
        if isinstance(value, dict) and set(value) != {"b64"}:
            samples, rate = _raw(value)
        elif isinstance(value, numpy.ndarray):
            samples, rate = value.astype(numpy.float32), self._rate
        else:
            content = content_of(value)
            samples, rate = self._read(content)
        self._count_samples(len(samples), rate)
        if not len(samples):
            raise RequestError("unsupported_value", "the audio has no samples")
        return samples if rate == self._rate else resampled(samples, rate, self._rate)

    def recording(self, value: object) -> JsonObject:
        """`{"raw": samples, "sampling_rate": Hz}`, in mono float32 at the file's sampling rate."""
        samples, rate = self._read(content_of(value))
        self._count_samples(len(samples), rate)
        return {"raw": samples, "sampling_rate": rate}

    def _count_samples(self, count: int, rate: int) -> None:
        self._samples += count * self._rate // rate
        if self._samples > self._seconds * self._rate:
            raise RequestError(
                "unsupported_value",
                "the audio of a request is longer than {} seconds".format(self._seconds),
            )

    def _read(self, content: bytes) -> Sound:
        read = _by_soundfile if importlib.util.find_spec("soundfile") else _by_wave
        kind = codecs.sniff(codecs.MediaType(codecs.BINARY, {}), content).name
        if read is _by_wave and kind.startswith("audio/") and kind != codecs.WAV:
            raise RequestError(
                "unsupported_media_type",
                "{} cannot be read here; this image reads {} (PCM)".format(kind, codecs.WAV),
            )
        try:
            return read(content, self._seconds)
        except (MemoryError, RequestError):
            raise
        except Exception as problem:  # libsndfile and its wrapper raise many exceptions for invalid files
            formats = ("WAV", "FLAC", "OGG", "MP3") if read is _by_soundfile else ("WAV (PCM)",)
            raise RequestError("malformed", _unreadable("sound", problem, formats)) from None


def _unreadable(what: str, problem: Exception, formats: Sequence[str]) -> str:
    # Pillow's message contains the repr of the file object.
    words = first_line(problem).split("<_io.BytesIO")[0].strip()
    return "the {} cannot be read ({}); formats: {}".format(what, words, ", ".join(formats))


def _raw(value: JsonObject) -> Sound:
    samples, rate = value.get("raw", value.get("array")), value.get("sampling_rate", 0)
    is_whole = isinstance(rate, int) and not isinstance(rate, bool) and 1000 <= rate <= 384000
    if not set(value) <= {"raw", "array", "sampling_rate"} or not is_whole:
        raise RequestError(
            "unsupported_value",
            'audio must be base64, or {"raw": [samples], "sampling_rate": Hz} with a rate from 1000 to 384000',
        )
    try:
        array = numpy.asarray(samples)
    except ValueError:  # lists of different lengths
        array = numpy.asarray(None)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise RequestError("unsupported_value", '"raw" must be a list of numbers')
    return array.astype(numpy.float32), rate


def _by_soundfile(content: bytes, seconds: int) -> Sound:
    import soundfile

    with soundfile.SoundFile(io.BytesIO(content)) as sound:
        rate = sound.samplerate
        blocks, count = [], 0
        # In blocks, because the header may promise more than the file has, or than fits into memory.
        while count <= seconds * rate:
            block = sound.read(max(1, min(rate, 4194304 // sound.channels)), dtype="float32", always_2d=True)
            if not len(block):
                break
            blocks.append(block.mean(axis=1))
            count += len(block)
    return (numpy.concatenate(blocks) if blocks else numpy.zeros(0, numpy.float32)), rate


def _by_wave(content: bytes, seconds: int) -> Sound:
    with wave.open(io.BytesIO(content)) as sound:
        kind = {1: numpy.uint8, 2: numpy.int16, 4: numpy.int32}.get(sound.getsampwidth())
        if kind is None:
            raise RequestError(
                "unsupported_value", "WAV of {} bit cannot be read here".format(sound.getsampwidth() * 8)
            )
        rate = sound.getframerate()
        frames = sound.readframes(min(sound.getnframes(), (seconds + 1) * rate))
        samples = numpy.frombuffer(frames, dtype=kind)
        samples = samples.reshape(-1, sound.getnchannels()).mean(axis=1)
    scaled = (
        (samples - 128.0) / 128.0 if kind is numpy.uint8 else samples / (float(numpy.iinfo(kind).max) + 1)
    )
    return scaled.astype(numpy.float32), rate


def resampled(samples: numpy.ndarray, rate: int, wanted: int) -> numpy.ndarray:
    """Resample by soxr or scipy. RequestError if neither is installed."""
    if importlib.util.find_spec("soxr"):
        import soxr

        return soxr.resample(samples, rate, wanted).astype(numpy.float32)
    if importlib.util.find_spec("scipy"):
        from math import gcd

        from scipy.signal import resample_poly

        common = gcd(rate, wanted)
        return resample_poly(samples, wanted // common, rate // common).astype(numpy.float32)
    raise RequestError(
        "unsupported_value", "the audio has {} Hz; this image supports {} Hz only".format(rate, wanted)
    )
