"""Error answers for exceptions of a prediction."""

from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
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
    """507 for memory, 422 where the request is to blame, 500 for everything else."""
    if is_out_of_memory(problem):
        release_memory()
        return RequestError(
            "out_of_memory", "not enough memory for this request; send less, or fewer at once"
        )
    if service.negotiates and _request_is_to_blame(problem, request):
        words = str(problem).strip().splitlines()
        reason = words[0][:300] if words else type(problem).__name__
        return RequestError("unprocessable", "the model cannot take this request: {}".format(reason))
    return RequestError("internal", "internal error; the log has it under this request_id")


def _request_is_to_blame(problem: Exception, request: Request) -> bool:
    """Whether transformers rejected the input, or the request had parameters, which may be the cause."""
    if "CUDA error" in str(problem):
        return False
    return isinstance(problem, _REJECTIONS) or bool(request.parameters)
