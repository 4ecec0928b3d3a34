"""Every way a request can fail: one table, one JSON shape."""

import re
from typing import Any, Dict, NamedTuple, Optional


class Kind(NamedTuple):
    """A row of the table: the HTTP status and what it means to the one who sent the request."""

    status: int
    meaning: str


TABLE = {
    "malformed": Kind(400, "the body is not what its content type says, or not a request"),
    "unsupported_value": Kind(400, "a key or a value that this task does not have"),
    "not_found": Kind(404, "no such route"),
    "method_not_allowed": Kind(405, "the route exists, for another method"),
    "not_acceptable": Kind(406, "none of the types in Accept can be written"),
    "body_too_slow": Kind(408, "the body did not arrive within the time limit"),
    "head_too_slow": Kind(408, "the head of the request did not arrive within the time limit"),
    "payload_too_large": Kind(413, "the body is larger than SAGEMAKER_MAX_PAYLOAD_IN_MB"),
    "unsupported_media_type": Kind(415, "the Content-Type cannot be read"),
    "unprocessable": Kind(422, "well-formed, and the model cannot take it"),
    "head_too_large": Kind(431, "the head of the request is too large"),
    "internal": Kind(500, "a fault of the server; the log has it under the request's id"),
    "unknown_transfer_coding": Kind(501, "the Transfer-Encoding cannot be read"),
    "not_ready": Kind(503, "the model is loading"),
    "overloaded": Kind(503, "the queue is full"),
    "draining": Kind(503, "the server is shutting down"),
    "unhealthy": Kind(503, "the model can no longer serve"),
    "deadline_exceeded": Kind(504, "no answer within SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS"),
    "unknown_version": Kind(505, "the HTTP version is not 1.0 or 1.1"),
    "out_of_memory": Kind(507, "the request needs more memory than there is"),
}


_OBJECT = re.compile(r"<(?:[\w.]*\.)?(\w+)\b[^<>]* at 0x[0-9a-fA-F]+>|<class '(?:[\w.]*\.)?(\w+)'>")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")


def without_objects(text: str) -> str:
    """Messages of libraries with Python's objects as the names of their types, and without addresses in memory."""
    text = _OBJECT.sub(lambda found: found.group(1) or found.group(2), text)
    return _ADDRESS.sub("...", text)


class RequestError(Exception):
    """A request that gets an error for an answer; `kind` is a row of TABLE."""

    def __init__(self, kind: str, message: str, headers: Optional[Dict[str, str]] = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = kind
        self.status = TABLE[kind].status
        self.message = without_objects(message)
        self.headers = dict(headers or {})


class InferenceError(RequestError):
    """Raised by user code: answered with this status (400 to 599) and this message, as they are."""

    def __init__(self, status: int, message: str, code: str = "user_code") -> None:
        if not isinstance(status, int) or not 400 <= status <= 599:
            raise ValueError("InferenceError: the status must be from 400 to 599, not {!r}".format(status))
        super().__init__("internal", str(message))
        self.code = code
        self.status = status
        self.message = str(message)


class StartError(Exception):
    """The server cannot start with these settings, this model or this user code; the message says what to do."""


def document(error: RequestError, request_id: str) -> Dict[str, Any]:
    """The JSON of an error answer: `{"error": {"status", "code", "message", "request_id"}}`."""
    return {
        "error": {
            "status": error.status,
            "code": error.code,
            "message": error.message,
            "request_id": request_id,
        }
    }
