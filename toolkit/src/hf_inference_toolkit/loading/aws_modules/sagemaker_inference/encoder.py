"""Arrays as bodies."""

import io
import json
from typing import Union

from sagemaker_inference import content_types, errors


def encode(array_like: object, content_type: str) -> Union[str, bytes]:
    """A body of JSON, CSV (both as text) or .npy (bytes); UnsupportedFormatError for any other type."""
    import numpy

    if content_type == content_types.NPY:
        out = io.BytesIO()
        numpy.save(out, numpy.asarray(array_like), allow_pickle=False)
        return out.getvalue()
    if content_type == content_types.JSON:
        return json.dumps(array_like, default=_plain)
    if content_type == content_types.CSV:
        text = io.StringIO()
        numpy.savetxt(text, numpy.asarray(array_like), delimiter=",", fmt="%s")
        return text.getvalue()
    raise errors.UnsupportedFormatError(content_type)


def _plain(value: object) -> object:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError("{} cannot be written as JSON".format(type(value).__name__))
