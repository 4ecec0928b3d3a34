"""Bodies as numpy arrays."""

import io
import json
from typing import TYPE_CHECKING, Union

from sagemaker_inference import content_types, errors

if TYPE_CHECKING:
    import numpy


def decode(obj: Union[str, bytes], content_type: str) -> "numpy.ndarray":
    """The array in a body of JSON, CSV or .npy.

    UnsupportedFormatError for any other type, and a GenericInferenceToolkitError with 400 for a broken body.
    """
    readers = {content_types.JSON: _from_json, content_types.CSV: _from_csv, content_types.NPY: _from_npy}
    if content_type not in readers:
        raise errors.UnsupportedFormatError(content_type)
    try:
        return readers[content_type](obj)
    except (ValueError, EOFError, OSError) as problem:
        raise errors.GenericInferenceToolkitError(
            400, "the body cannot be read as {}: {}".format(content_type, problem)
        ) from problem


def _from_json(obj: Union[str, bytes]) -> "numpy.ndarray":
    import numpy

    return numpy.array(json.loads(_text(obj)))


def _from_csv(obj: Union[str, bytes]) -> "numpy.ndarray":
    import numpy

    return numpy.genfromtxt(io.StringIO(_text(obj)), dtype=None, delimiter=",", encoding="utf-8")


def _from_npy(obj: Union[str, bytes]) -> "numpy.ndarray":
    import numpy

    # The original accepts pickles, which can run a client's code.
    return numpy.load(io.BytesIO(_bytes(obj)), allow_pickle=False)


def _bytes(obj: Union[str, bytes]) -> bytes:
    return obj.encode("utf-8") if isinstance(obj, str) else bytes(obj)


def _text(obj: Union[str, bytes]) -> str:
    return obj if isinstance(obj, str) else bytes(obj).decode("utf-8")
