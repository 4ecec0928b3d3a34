"""Limits of caches, and release of freed memory to the system."""

import contextlib
import ctypes
import gc
import sys
from typing import MutableMapping

# oneDNN and PyTorch cache a compiled primitive for each shape, 1024 by default, and texts have many lengths. With a
# smaller cache the speed was the same.
PROGRAMS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate", "oom when")


def limit(environ: MutableMapping[str, str]) -> None:
    """Set cache sizes for libraries that are not imported yet. Variables that are set already are not changed."""
    for name, value in PROGRAMS.items():
        environ.setdefault(name, value)


def settle() -> None:
    """Exclude all present objects from garbage collection, which would pause the server for 0.2 s from time to time."""
    gc.collect()
    # Python 3.6 has no gc.freeze.
    getattr(gc, "freeze", lambda: None)()
    trim()


def trim() -> None:
    """Return freed memory to the system. It does nothing if the C library is not glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether memory ran out, on the CPU or on a GPU, with any framework."""
    if isinstance(problem, MemoryError) or type(problem).__name__ in (
        "OutOfMemoryError",
        "ResourceExhaustedError",
    ):
        return True
    return isinstance(problem, RuntimeError) and any(words in str(problem).lower() for words in _NO_MEMORY)


def release_memory() -> None:
    """Free the memory of a failed prediction."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
