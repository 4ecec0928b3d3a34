"""Parameters of a task in the query string or in a header, for bodies that have no parameters, such as images.

`POST /invocations?top_k=1`, or `X-Amzn-SageMaker-Custom-Attributes: top_k=1`, which SageMaker forwards. The header may
have any content: pairs `name=value` or a JSON object are used if the names are parameters of the task; everything else
is ignored.
"""

import re
from typing import Dict, Iterable, Optional
from urllib.parse import parse_qsl

from hf_inference_toolkit.annotations import Parameters
from hf_inference_toolkit.content import payload
from hf_inference_toolkit.errors import RequestError

HEADER = "x-amzn-sagemaker-custom-attributes"
MOST = 100


def from_query(query: str) -> Parameters:
    """The parameters in a query string. A value is JSON, otherwise a string. RequestError for a repeated name."""
    if not query:
        return {}
    pairs = parse_qsl(query, keep_blank_values=True)
    if len(pairs) > MOST:
        raise RequestError("unsupported_value", "the query string has more than {} parameters".format(MOST))
    found: Parameters = {}
    for name, text in pairs:
        if name in found:
            raise RequestError(
                "unsupported_value", "parameter '{}' is in the query string twice".format(name[:100])
            )
        found[name] = _value(text)
    return found


def from_attributes(header: Optional[str], known: Optional[Iterable[str]]) -> Parameters:
    """The parameters in the header whose names are in `known`; all of them if `known` is None."""
    if not header:
        return {}
    names = None if known is None else frozenset(known)
    return {name: value for name, value in _attributes(header).items() if names is None or name in names}


def _attributes(header: str) -> Parameters:
    whole = _value(header)
    if isinstance(whole, dict):
        return whole
    found: Dict[str, str] = {}
    name = ""
    for part in re.split("[,;]", header)[: MOST * 10]:
        before, separator, after = part.partition("=")
        if separator and re.match(r"\s*[A-Za-z_]\w*\s*\Z", before):
            name = before.strip()
            found[name] = after
        elif name:
            found[name] += "," + part  # a list of labels: candidate_labels=cat,dog
    return {name: _value(text) for name, text in found.items()}


def _value(text: str) -> object:
    try:
        return payload.read_json(text.strip().encode("utf-8"))
    except (RequestError, UnicodeError):
        return text.strip()
