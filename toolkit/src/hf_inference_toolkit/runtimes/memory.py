"""Memory that is no longer needed goes back to the system."""

import contextlib
import ctypes
import gc
from typing import MutableMapping

# oneDNN, and PyTorch above it, keep a program for each shape that they have met, 1024 of them, and texts come in many
# lengths. So few were seen to be as fast.
PROGRAMS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}


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
