"""Error responses for exceptions in a prediction."""

from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError, first_line
from hf_inference_toolkit.runtimes.memory import is_out_of_memory, release_memory
from hf_inference_toolkit.tasks.service import Service

# transformers raises these for inputs and parameters that it rejects.
_REJECTIONS = (
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    ZeroDivisionError,
    NotImplementedError,
)


def as_request_error(problem: Exception, service: Service, request: Request) -> RequestError:
    """507 if memory ran out, 422 if the request is the cause, otherwise 500."""
    if is_out_of_memory(problem):
        release_memory()
        return RequestError(
            "out_of_memory", "not enough memory for this request; send shorter or fewer inputs"
        )
    if service.negotiates and _request_is_to_blame(problem, request):
        message = "the model cannot process this request: {}"
        return RequestError("unprocessable", message.format(first_line(problem)))
    return RequestError("internal", "internal error; see the log entry with this request_id")


def _request_is_to_blame(problem: Exception, request: Request) -> bool:
    """Whether transformers rejected the input, or the request has parameters, which may be the cause."""
    if "CUDA error" in str(problem):
        return False
    return is_rejection(problem) or bool(request.parameters)


def is_rejection(problem: Exception) -> bool:
    """Whether it is one of the exceptions that transformers raises for input that it rejects."""
    return isinstance(problem, _REJECTIONS)
