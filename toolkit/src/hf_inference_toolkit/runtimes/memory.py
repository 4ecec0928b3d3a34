"""Memory that is no longer needed goes back to the system."""

import contextlib
import ctypes
import gc
import sys
from typing import MutableMapping

# oneDNN, and PyTorch above it, keep a program for each shape that they have met, 1024 of them, and texts come in many
# lengths. So few were seen to be as fast.
PROGRAMS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate", "oom when")


def limit(environ: MutableMapping[str, str]) -> None:
    """Have libraries that are not imported yet keep less; a user's choice stays."""
    for name, value in PROGRAMS.items():
        environ.setdefault(name, value)


def settle() -> None:
    """What is there now stays: looking through all of it for garbage would stop the server for 0.2 s now and then."""
    gc.collect()
    # Python 3.6 has none.
    getattr(gc, "freeze", lambda: None)()
    trim()


def trim() -> None:
    """Give back what was freed and is kept for later; nothing where the C library is not glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether memory ran out, on the processor or on an accelerator, in any framework's words."""
    if isinstance(problem, MemoryError) or type(problem).__name__ in (
        "OutOfMemoryError",
        "ResourceExhaustedError",
    ):
        return True
    return isinstance(problem, RuntimeError) and any(words in str(problem).lower() for words in _NO_MEMORY)


def release_memory() -> None:
    """Give back what the failed prediction held, so that the next one has room."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
