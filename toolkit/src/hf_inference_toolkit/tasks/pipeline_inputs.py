"""The inputs of pass-through tasks: a reader for each task.

A pipeline treats a string in place of an image or of audio as a URL or a path, and a dict as keyword arguments.
Therefore inputs are converted to objects here, and keys that a reader does not know are refused.
"""

from typing import Callable, Dict, List, NamedTuple, Tuple

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import Argument, JsonObject
from hf_inference_toolkit.content.payload import kind_of
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.tasks.media import Decoder

# The positional and the named arguments of a pipeline.
Call = Tuple[Tuple[Argument, ...], Dict[str, Argument]]
# Practically no token has more characters: a longer text certainly exceeds the model's limit.
CHARACTERS_PER_TOKEN = 32


class Reader(NamedTuple):
    """The decoder of the request's media, and the maximum characters of a text."""

    media: Decoder
    characters: int = limits.TEXT_CHARACTERS

    def text(self, value: object, what: str) -> str:
        """Check a string. RequestError (422) if it is too long."""
        if not isinstance(value, str):
            raise RequestError(
                "unsupported_value", "{} must be a string, not {}".format(what, kind_of(value))
            )
        if len(value) > self.characters:
            raise RequestError(
                "unprocessable",
                "{} has {} characters; the model's limit is {}".format(what, len(value), self.characters),
            )
        return value


def fields(value: object, needed: Tuple[str, ...], optional: Tuple[str, ...] = ()) -> JsonObject:
    """Check that a value is an object with these keys and no others."""
    if not isinstance(value, dict) or not set(needed) <= set(value) <= set(needed) | set(optional):
        shape = ", ".join('"{}"'.format(name) for name in needed)
        more = ", and optionally " + ", ".join('"{}"'.format(name) for name in optional) if optional else ""
        raise RequestError("unsupported_value", "an input must be an object with {}{}".format(shape, more))
    return value


def image(value: object, reader: Reader) -> Call:
    """Read an image."""
    return (reader.media.image(value),), {}


def sound(value: object, reader: Reader) -> Call:
    """Read audio."""
    return (reader.media.sound(value),), {}


def text(value: object, reader: Reader) -> Call:
    """Read a text."""
    return (reader.text(value, "an input"),), {}


def image_pair(value: object, reader: Reader) -> Call:
    """Read a list of two images."""
    if not isinstance(value, list) or len(value) != 2:
        raise RequestError("unsupported_value", "an input must be a list of two images")
    return ([reader.media.image(one) for one in value],), {}


def image_question(value: object, reader: Reader) -> Call:
    """Read `{"image", "question"}`."""
    given = fields(value, ("image", "question"))
    question = reader.text(given["question"], '"question"')
    return ({"image": reader.media.image(given["image"]), "question": question},), {}


def document_question(value: object, reader: Reader) -> Call:
    """Read `{"image", "question"}`, with `word_boxes` (the words of the document) instead of the image, or both."""
    given = fields(value, ("question",), ("image", "word_boxes"))
    out: JsonObject = {"question": reader.text(given["question"], '"question"'), "image": None}
    if "word_boxes" in given:
        out["word_boxes"] = word_boxes(given["word_boxes"], reader)
    if given.get("image") is not None:
        out["image"] = reader.media.image(given["image"])
    elif "word_boxes" not in given:
        raise RequestError("unsupported_value", 'an input must have "image" or "word_boxes"')
    return (out,), {}


def word_boxes(value: object, reader: Reader) -> List[Tuple[str, List[float]]]:
    """Read `[["word", [left, top, right, bottom]]]`, in thousandths of the page."""
    if not isinstance(value, list) or not value or not all(map(_is_word_box, value)):
        raise RequestError(
            "unsupported_value",
            '"word_boxes" must be a list of ["word", [left, top, right, bottom]] with numbers from 0 to 1000',
        )
    if len(value) > limits.WORD_BOXES:
        raise RequestError(
            "unsupported_value",
            '"word_boxes" has {} words; at most {} are allowed'.format(len(value), limits.WORD_BOXES),
        )
    reader.text(" ".join(word for word, _ in value), "the document")
    return [(word, box) for word, box in value]


def _is_word_box(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
        return False
    box = value[1]
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(edge, (int, float)) and 0 <= edge <= 1000 for edge in box)
    )


def conversation(value: object, reader: Reader) -> Call:
    """Read a text, a text with images, or the messages of a conversation, which may contain images and audio."""
    if isinstance(value, str):
        return (), {"text": reader.text(value, "an input")}
    if isinstance(value, list):
        return (), {"text": messages(value, reader)}
    name = "image" if isinstance(value, dict) and "image" in value else "images"
    given = fields(value, ("text",), (name,))
    out: JsonObject = {"text": reader.text(given["text"], '"text"')}
    if given.get(name) is not None:
        several = given[name] if isinstance(given[name], list) else [given[name]]
        out["images"] = [reader.media.image(one) for one in several]
    return (), out


def messages(value: List[object], reader: Reader) -> List[JsonObject]:
    """Read messages and decode their images and audio."""
    if not value or len(value) > limits.MESSAGES:
        raise RequestError(
            "unsupported_value",
            "a conversation has {} messages; from 1 to {} are allowed".format(len(value), limits.MESSAGES),
        )
    out, length = [], 0
    for one in value:
        given = fields(one, ("role", "content"))
        role = reader.text(given["role"], '"role"')
        content = given["content"]
        if isinstance(content, str):
            length += len(content)
        elif isinstance(content, list) and len(content) <= limits.MESSAGES:
            content = [message_part(inner, reader) for inner in content]
            length += sum(len(inner.get("text", "")) for inner in content)
        else:
            raise RequestError(
                "unsupported_value",
                '"content" must be a string, or a list of at most {} parts'.format(limits.MESSAGES),
            )
        out.append({"role": role[: limits.SHORT_TEXT], "content": content})
    if length > reader.characters:
        raise RequestError(
            "unprocessable",
            "the conversation has {} characters; the model's limit is {}".format(length, reader.characters),
        )
    return out


def message_part(value: object, reader: Reader) -> JsonObject:
    """Read a part of a message, in the formats of Hugging Face and OpenAI."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return {"type": "text", "text": reader.text(fields(value, ("type", "text"))["text"], '"text"')}
    if kind == "image_url":
        given = fields(value, ("type", "image_url"))["image_url"]
        address = fields(given, ("url",), ("detail",))["url"] if isinstance(given, dict) else given
        return {"type": "image", "image": reader.media.image(address)}
    if kind == "input_audio":
        given = fields(fields(value, ("type", "input_audio"))["input_audio"], ("data",), ("format",))
        return {"type": "audio", "audio": reader.media.sound(given["data"])}
    if isinstance(value, dict) and kind in ("image", "audio") and len(value) == 2:
        source = next(name for name in value if name != "type")
        if source in (kind, "base64", "url"):
            read = reader.media.image if kind == "image" else reader.media.sound
            return {"type": kind, kind: read(value[source])}
    raise RequestError(
        "unsupported_value",
        'a part of a message must be {"type": "text", "text"}, {"type": "image", "image"}, {"type": "image_url", '
        '"image_url": {"url"}}, {"type": "audio", "audio"} or {"type": "input_audio", "input_audio": {"data"}}, with '
        "media in base64 or a data: URL",
    )


def is_conversation(value: List[object]) -> bool:
    """Whether a list is one conversation rather than several inputs."""
    return bool(value) and isinstance(value[0], dict) and "role" in value[0]


def is_image_pair(value: List[object]) -> bool:
    """Whether a list is one pair of images rather than several pairs."""
    return not any(isinstance(one, list) for one in value)


class Kind(NamedTuple):
    """The inputs of a task. `read` reads one input; `is_one` is whether a list is one input."""

    read: Callable[[object, Reader], Call]
    is_one: Callable[[List[object]], bool] = lambda _: False


ENCODED = {"type": "string", "description": "base64 or a data: URL"}
TEXT = {"type": "string"}
KINDS: Dict[str, Kind] = {
    "any-to-any": Kind(conversation, is_conversation),
    "audio-classification": Kind(sound),
    "automatic-speech-recognition": Kind(sound),
    "depth-estimation": Kind(image),
    "document-question-answering": Kind(document_question),
    "image-classification": Kind(image),
    "image-feature-extraction": Kind(image),
    "image-segmentation": Kind(image),
    "image-text-to-text": Kind(conversation, is_conversation),
    "image-to-image": Kind(image),
    "image-to-text": Kind(image),
    "keypoint-matching": Kind(image_pair, is_image_pair),
    "mask-generation": Kind(image),
    "object-detection": Kind(image),
    "text-to-audio": Kind(text),
    "visual-question-answering": Kind(image_question),
    "zero-shot-audio-classification": Kind(sound),
    "zero-shot-image-classification": Kind(image),
    "zero-shot-object-detection": Kind(image),
}
# What a request's body may be in place of JSON.
BODY_TYPES: Dict[Callable[[object, Reader], Call], Tuple[str, ...]] = {
    image: ("image/*",),
    sound: ("audio/*",),
}


def schema(kind: Kind) -> JsonObject:
    """JSON Schema of one input."""
    if kind.read in (image, sound):
        return dict(ENCODED)
    if kind.read is text:
        return dict(TEXT)
    if kind.read is image_pair:
        return {"type": "array", "items": ENCODED, "minItems": 2, "maxItems": 2}
    if kind.read is conversation:
        message = {"type": "object", "required": ["role", "content"]}
        pair = {"type": "object", "required": ["text"], "properties": {"text": TEXT, "images": {}}}
        return {"oneOf": [TEXT, pair, {"type": "array", "items": message, "minItems": 1}]}
    properties: JsonObject = {"image": ENCODED, "question": TEXT}
    if kind.read is document_question:
        properties["word_boxes"] = {"type": "array"}
    return {"type": "object", "required": ["question"], "properties": properties}
