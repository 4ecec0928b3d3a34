"""Digests of files, which are read again only where their time or size has changed."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

Stamp = tuple[tuple[str, int, int], ...]  # the files of a folder: names, times and sizes

_seen: ContextVar[dict[str, str] | None] = ContextVar("seen", default=None)  # file -> digest
_stamps: ContextVar[dict[Path, Stamp] | None] = ContextVar("stamps", default=None)


@contextmanager
def unchanging() -> Iterator[None]:
    """Take files as they are at first, while this lasts: one look at each file instead of three."""
    seen, stamps = _seen.set({}), _stamps.set({})
    try:
        yield
    finally:
        _seen.reset(seen)
        _stamps.reset(stamps)


def digest(file: str) -> str:
    """The digest of a file; raises FileNotFoundError. It takes no Path, because those are slow."""
    known = _seen.get()
    if known is None:
        return _digest(file)
    if file not in known:
        known[file] = _digest(file)
    return known[file]


def stamp(folder: Path) -> Stamp:
    """What changes where a file of a folder does."""
    known = _stamps.get()
    if known is None:
        return _stamp(folder)
    if folder not in known:
        known[folder] = _stamp(folder)
    return known[folder]


def _stamp(folder: Path) -> Stamp:
    found = [(each.name, each.stat()) for each in os.scandir(folder)]
    return tuple((name, seen.st_mtime_ns, seen.st_size) for name, seen in found)


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _digest(file: str) -> str:
    found = os.stat(file)  # noqa: PTH116
    return _read(file, found.st_mtime_ns, found.st_size)


@cache
def _read(file: str, _changed: int, _size: int) -> str:
    with open(file, "rb", buffering=0) as opened:  # noqa: PTH123
        return digest_of(opened.read())
