"""Limits of caches, and release of freed memory to the system."""

import contextlib
import ctypes
import gc
import sys
from pathlib import Path
from typing import MutableMapping, Optional

# oneDNN and PyTorch cache a compiled primitive for each shape, 1024 by default, and texts have many lengths. With a
# smaller cache the speed was the same.
PROGRAMS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}
_MADV_DONTNEED = 4
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate", "oom when")


def limit(environ: MutableMapping[str, str]) -> None:
    """Set cache sizes for libraries that are not imported yet. Variables that are set already are not changed."""
    for name, value in PROGRAMS.items():
        environ.setdefault(name, value)


def available(root: Path = Path("/")) -> int:
    """Bytes that this process may still allocate: what the machine has, and the limit of its control group leaves."""
    free = [value for value in (_machine(root), _limit_v2(root), _limit_v1(root)) if value is not None]
    return max(0, min(free)) if free else 0


def _machine(root: Path) -> Optional[int]:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _limit_v2(root: Path) -> Optional[int]:
    """What cgroup v2 leaves. Its usage counts files that the kernel would drop from memory."""
    group = root / "sys/fs/cgroup"
    return _left(
        _text(group / "memory.max"),
        _text(group / "memory.current"),
        _text(group / "memory.stat"),
        "inactive_file",
    )


def _limit_v1(root: Path) -> Optional[int]:
    group = root / "sys/fs/cgroup/memory"
    return _left(
        _text(group / "memory.limit_in_bytes"),
        _text(group / "memory.usage_in_bytes"),
        _text(group / "memory.stat"),
        "total_inactive_file",
    )


def _left(limit: str, used: str, statistics: str, droppable: str) -> Optional[int]:
    if not limit.strip().isdigit() or not used.strip().isdigit():
        return None
    files = [line.split()[1] for line in statistics.splitlines() if line.startswith(droppable + " ")]
    return int(limit) - int(used) + (int(files[0]) if files else 0)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


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


def drop_mapped(name: str, maps: Path = Path("/proc/self/maps")) -> int:
    """Drop the pages of files of this name that are mapped for reading only. Returns the number of bytes.

    A page that is accessed again is read from the file again.
    """
    dropped = 0
    for line in _text(maps).splitlines():
        words = line.split(None, 5)
        if len(words) < 6 or "w" in words[1] or Path(words[5].replace(" (deleted)", "")).name != name:
            continue
        begin, end = (int(word, 16) for word in words[0].split("-"))
        with contextlib.suppress(OSError, AttributeError):
            advise = ctypes.CDLL(None).madvise
            advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
            if advise(begin, end - begin, _MADV_DONTNEED) == 0:
                dropped += end - begin
    return dropped


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
