"""Response bodies for the return values of user code: values, images and streams."""

import base64
import io
import threading
from typing import TYPE_CHECKING, Callable, List, Optional, Tuple

from hf_inference_toolkit.content import codecs, payload

if TYPE_CHECKING:
    import PIL.Image

EVENTS = "text/event-stream"
# Media types of images that are written, with Pillow's name of the format.
IMAGE_FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
# Kinds of pixels that a format holds; others are converted.
MODES = {"PNG": ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"), "WEBP": ("RGB", "RGBA")}


def is_stream(value: object) -> bool:
    """Whether a value is an iterator or an asynchronous iterator, such as a generator."""
    return hasattr(value, "__next__") or hasattr(value, "__anext__")


def write(value: object, chosen: str, accept: str) -> Tuple[bytes, str]:
    """Serialize a value in the type that user code has chosen, otherwise in the preferred type of Accept.

    An image is base64 if the type is not an image type. Bytes are written as they are.
    """
    if isinstance(value, (bytes, bytearray)):
        wanted = codecs.preferred(accept, codecs.JSON)
        return bytes(value), chosen or (codecs.BINARY if wanted == codecs.JSON else wanted)
    if codecs.as_sent(chosen).name in (*codecs.WRITTEN, *IMAGE_FORMATS):
        accept = codecs.as_sent(chosen).name
    if _is_image(value):
        for kind in _by_preference(accept):
            if kind in IMAGE_FORMATS or kind == "image/*":
                kind = "image/png" if kind == "image/*" else kind
                return _image_bytes(value, IMAGE_FORMATS[kind]), kind
            if kind in codecs.WRITTEN:
                break
    written = codecs.accepted(accept, codecs.JSON)
    return codecs.write(without_images(value), written), written


def _by_preference(accept: str) -> List[str]:
    kinds = [codecs.as_sent(part) for part in accept.split(",")]
    return [kind.name for kind in sorted(kinds, key=lambda kind: kind.parameters.get("q", "1"), reverse=True)]


def _is_image(value: object) -> bool:
    return type(value).__module__.startswith("PIL.") and hasattr(value, "save")


def _image_bytes(image: "PIL.Image.Image", form: str) -> bytes:
    out = io.BytesIO()
    if image.mode not in MODES.get(form, ("L", "RGB")):
        image = image.convert("RGB")
    image.save(out, format=form)
    return out.getvalue()


def without_images(value: object) -> object:
    """A value with base64 of a PNG in place of every PIL image."""
    if _is_image(value):
        return base64.b64encode(_image_bytes(value, "PNG")).decode("ascii")
    if isinstance(value, dict):
        return {key: without_images(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_images(inner) for inner in value]
    return value


class Window:
    """Flow control: the number of bytes of a stream that may wait for a slow client before user code waits."""

    def __init__(self, size: int = 16 * 1024 * 1024) -> None:
        self._left = size
        self._changed = threading.Condition()

    def take(self, size: int, check: Callable[[], None]) -> None:
        """Wait for space. `check` raises if the client disconnects or the deadline passes."""
        with self._changed:
            while self._left <= 0:
                self._changed.wait(0.1)
                check()
            self._left -= size

    def give(self, size: int) -> None:
        """Free space after a part was sent. May be called in any thread."""
        with self._changed:
            self._left += size
            self._changed.notify()


class Stream:
    """The encoding of a stream's items. The first item decides.

    Strings and bytes are sent unchanged. Other values are server-sent events if the client accepts them, otherwise
    JSON Lines.
    """

    def __init__(self, first: object, accept: Optional[str], content_type: Optional[str]) -> None:
        wanted = codecs.preferred(accept or "", "")
        self._is_raw = isinstance(first, (str, bytes, bytearray))
        self.is_events = EVENTS in (wanted, codecs.as_sent(content_type or "").name)
        if content_type:
            self.content_type = content_type
        elif self.is_events:
            self.content_type = EVENTS
        elif not self._is_raw:
            self.content_type = codecs.JSON_LINES
        elif wanted:
            self.content_type = wanted
        else:
            is_text = isinstance(first, str)
            self.content_type = "text/plain; charset=utf-8" if is_text else "application/octet-stream"

    def encode(self, item: object) -> bytes:
        """The bytes of one item."""
        if self._is_raw:
            if isinstance(item, str):
                return item.encode("utf-8")
            if isinstance(item, (bytes, bytearray)):
                return bytes(item)
        body = payload.write_json(without_images(item))
        return b"data: " + body + b"\n\n" if self.is_events else body + b"\n"
