"""The errors of requests, with their status and JSON form, and the error of a failed start."""

import re
from typing import Dict, NamedTuple, Optional

from hf_inference_toolkit.annotations import JsonObject


class Kind(NamedTuple):
    """The HTTP status of an error, and its meaning for the client."""

    status: int
    meaning: str


TABLE = {
    "malformed": Kind(400, "the body does not match its content type, or is not a request"),
    "unsupported_value": Kind(400, "a key, parameter or value that this task does not support"),
    "not_found": Kind(404, "no such route"),
    "model_not_found": Kind(404, "no model with this name is loaded"),
    "method_not_allowed": Kind(405, "the route does not support this method"),
    "not_acceptable": Kind(406, "none of the types in Accept can be written"),
    "body_too_slow": Kind(408, "the body did not arrive within the time limit"),
    "head_too_slow": Kind(408, "the head of the request did not arrive within the time limit"),
    "conflict": Kind(409, "a model with this name is loaded already, or is being loaded or unloaded"),
    "payload_too_large": Kind(413, "the body is larger than SAGEMAKER_MAX_PAYLOAD_IN_MB"),
    "unsupported_media_type": Kind(415, "the Content-Type cannot be read"),
    "unprocessable": Kind(422, "the request is well-formed, but the model cannot process it"),
    "cannot_load": Kind(422, "the model cannot be loaded; the message has the reason"),
    "head_too_large": Kind(431, "the head of the request is too large"),
    "internal": Kind(500, "a fault of the server; see the log entry with the same request_id"),
    "unknown_transfer_coding": Kind(501, "the Transfer-Encoding cannot be read"),
    "not_ready": Kind(503, "the model is loading"),
    "overloaded": Kind(503, "the queue is full"),
    "draining": Kind(503, "the server is shutting down"),
    "unhealthy": Kind(503, "the model can no longer serve"),
    "deadline_exceeded": Kind(504, "no response within SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS"),
    "unknown_version": Kind(505, "the HTTP version is not 1.0 or 1.1"),
    "out_of_memory": Kind(507, "the request, or the model to load, needs more memory than is available"),
}


# They take linear time: a message may have a path or a header of a client in it.
_OBJECT = re.compile(r"<([^<>]+) at 0x[0-9a-fA-F]+>|<class '([\w.]+)'>")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")


def without_objects(text: str) -> str:
    """A library's message with the type's name in place of each object's repr, and without memory addresses."""
    text = _OBJECT.sub(lambda found: _type_name(found.group(1) or found.group(2)), text)
    return _ADDRESS.sub("...", text)


def _type_name(words: str) -> str:
    """The first of some words, without the modules in front of a type."""
    return words.partition(" ")[0].rpartition(".")[2]


def first_line(problem: BaseException) -> str:
    """The first line of an exception's message, at most 300 characters; the name of its type without a message."""
    lines = str(problem).strip().splitlines()
    return lines[0][:300] if lines else type(problem).__name__


class RequestError(Exception):
    """A request that is answered with an error. `kind` is a key of TABLE, `param` the parameter that is wrong."""

    def __init__(
        self,
        kind: str,
        message: str,
        headers: Optional[Dict[str, str]] = None,
        param: Optional[str] = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = kind
        self.status = TABLE[kind].status
        self.message = without_objects(message)
        self.headers = dict(headers or {})
        self.param = param


class InferenceError(RequestError):
    """Raised by user code. The client gets the status (400 to 599) and the message unchanged."""

    def __init__(self, status: int, message: str, code: str = "user_code") -> None:
        if not isinstance(status, int) or not 400 <= status <= 599:
            raise ValueError("InferenceError: the status must be from 400 to 599, not {!r}".format(status))
        super().__init__("internal", str(message))
        self.code = code
        self.status = status
        self.message = str(message)


class StartError(Exception):
    """Invalid settings, model or user code. The message says what to do."""


def document(error: RequestError, request_id: str) -> JsonObject:
    """The body of an error response: `{"error": {"status", "code", "message", "request_id"}}`."""
    return {
        "error": {
            "status": error.status,
            "code": error.code,
            "message": error.message,
            "request_id": request_id,
        }
    }
