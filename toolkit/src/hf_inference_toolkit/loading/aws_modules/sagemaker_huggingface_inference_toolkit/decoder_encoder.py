"""Bodies as the inputs of pipelines, and their answers as bodies."""

import csv
import io
import json
from typing import Dict, Iterable, List, Mapping, Union, cast

from sagemaker_inference import decoder, encoder, errors

from hf_inference_toolkit.content import payload
from hf_inference_toolkit.loading import answers
from hf_inference_toolkit.tasks import media
from sagemaker_huggingface_inference_toolkit import content_types


def decode(content: Union[str, bytes], content_type: str = content_types.JSON) -> object:
    """JSON as it is, CSV and images as `{"inputs": ...}`, sound as `{"inputs": bytes}`, .npy as an array."""
    if content_type == content_types.JSON:
        return decode_json(content)
    if content_type == content_types.CSV:
        return decode_csv(content)
    if content_type in content_types.VISION_TYPES:
        return decode_image(cast(bytes, content))
    if content_type in content_types.AUDIO_TYPES:
        return decode_audio(cast(bytes, content))
    return decoder.decode(content, content_type)


def encode(content: object, content_type: str = content_types.JSON) -> Union[str, bytes]:
    """JSON and CSV as text, .npy as bytes; UnsupportedFormatError for any other type."""
    if content_type == content_types.JSON:
        return encode_json(content)
    if content_type == content_types.CSV:
        return encode_csv(cast(Iterable[Mapping[str, object]], content))
    body: Union[str, bytes] = encoder.encode(content, content_type)
    return body


def decode_json(content: Union[str, bytes]) -> object:
    """The value of a JSON document; a GenericInferenceToolkitError with 400 if it is broken."""
    try:
        return json.loads(content)
    except ValueError as problem:
        raise errors.GenericInferenceToolkitError(
            400, "the body is not JSON: {}".format(problem)
        ) from problem


def decode_csv(string_like: Union[str, bytes]) -> Dict[str, object]:
    """The column `inputs` as a list, or rows as objects; the first line names the columns."""
    text = string_like if isinstance(string_like, str) else bytes(string_like).decode("utf-8")
    rows: List[Dict[str, str]] = [dict(row) for row in csv.DictReader(io.StringIO(text))]
    names = set(rows[0]) if rows else set()
    if not names & {"inputs", "question", "context"}:
        raise errors.GenericInferenceToolkitError(
            400, "the first line of the CSV must name the column inputs, or the columns question and context"
        )
    if "inputs" in names:
        return {"inputs": [row["inputs"] for row in rows]}
    return {"inputs": rows}


def decode_image(bpayload: bytes) -> Dict[str, object]:
    """A PIL image in RGB."""
    return {"inputs": media.decode(bytes(bpayload), "image/*")}


def decode_audio(bpayload: bytes) -> Dict[str, object]:
    """The file's bytes, which pipelines decode by ffmpeg."""
    return {"inputs": bytes(bpayload)}


def encode_json(content: object) -> str:
    """Compact JSON; arrays become lists and PIL images base64."""
    return payload.write_json(answers.without_images(content)).decode("utf-8")


def encode_csv(content: Iterable[Mapping[str, object]]) -> str:
    """Objects as lines below a line with their keys."""
    rows = content if isinstance(content, list) else list(content)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
