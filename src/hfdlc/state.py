"""The state folder: caches and results of earlier runs. Losing it costs time only."""

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hfdlc.errors import HfdlcError


@dataclass(frozen=True)
class State:
    """The folder `$HFDLC_STATE`, else `$XDG_CACHE_HOME/hfdlc`, else `~/.cache/hfdlc`."""

    root: Path

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "State":
        """The folder that the environment names. It is created on the first write."""
        if chosen := environ.get("HFDLC_STATE"):
            return cls(Path(chosen).absolute())
        cache = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/root")) / ".cache"
        return cls(Path(cache).absolute() / "hfdlc")

    def folder(self, name: str) -> Path:
        """A folder below the root, created if it does not exist.

        Raises HfdlcError if nothing can be written there.
        """
        path = self.root / name
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not os.access(path, os.W_OK):  # of root, after `sudo hfdlc`
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise HfdlcError(
                f"cannot be written to: {error.strerror}",
                location=str(path),
                hint="change its owner, or set HFDLC_STATE to another folder",
            ) from error
        return path

    @contextmanager
    def lock(self, name: str, *, wait: bool = True) -> Iterator[None]:
        """Hold a lock that the kernel releases when the process ends.

        Raises HfdlcError with the process that has it, if `wait` is false.
        """
        path = self.folder("locks") / name
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise HfdlcError(
                    f"{name} is in use by {holder}",
                    location=str(path),
                    hint="run this again when that process has ended",
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()}\n")
            file.flush()
            yield


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically: a reader gets the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
