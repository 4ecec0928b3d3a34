"""What an exception from a model means to the client who sent the request."""

import gc
import sys
from typing import Any

from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.tasks.service import Service

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate", "oom when")
# What transformers raises for inputs and parameters that it understands and refuses.
_REFUSALS = (
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    ZeroDivisionError,
    NotImplementedError,
)


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether memory ran out, on the processor or on an accelerator, in any framework's words."""
    if isinstance(problem, MemoryError) or type(problem).__name__ in (
        "OutOfMemoryError",
        "ResourceExhaustedError",
    ):
        return True
    return isinstance(problem, RuntimeError) and any(words in str(problem).lower() for words in _NO_MEMORY)


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
    """A refusal of transformers, or any failure of a request that brought parameters of its own."""
    if "CUDA error" in str(problem):
        return False
    return isinstance(problem, _REFUSALS) or bool(request.parameters)


def accelerator_fault() -> str:
    """Why PyTorch can use a GPU no more in this process; nothing where it can, or has none in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return ""
    for device in range(torch.cuda.device_count()):
        if torch.cuda.memory_reserved(device):  # looking at one that is not in use would make it be
            faults = [_fault(torch, device) for _ in range(2)]
            if all(faults):  # what passes is not the end of it
                return faults[-1]
    return ""


def _fault(torch: Any, device: int) -> str:
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as problem:
        return (str(problem) or repr(problem)).splitlines()[0]
    return ""


def release_memory() -> None:
    """Give back what the failed prediction held, so that the next one has room."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
