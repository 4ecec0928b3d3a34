"""Responses with a JSON body."""

from typing import Dict, Optional

from starlette.responses import Response

from hf_inference_toolkit.content import codecs, payload


def json_response(value: object, status: int = 200, headers: Optional[Dict[str, str]] = None) -> Response:
    """A value as JSON."""
    return Response(payload.write_json(value), status, dict(headers or {}, **{"Content-Type": codecs.JSON}))
