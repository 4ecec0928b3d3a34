"""The source folder of a training job, which is copied into the container."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hfdlc.errors import UserError

LARGEST = 1 << 30  # bytes: more is data or a model, which belongs in --data
SKIPPED = ("__pycache__", "node_modules")


@dataclass(frozen=True)
class Source:
    """A folder and the script in it, relative to the folder."""

    folder: Path
    entry_point: PurePosixPath

    @property
    def script(self) -> Path:
        return self.folder / self.entry_point


def find(script: Path | None, source_dir: Path | None, entry_point: str | None) -> Source:
    """The source of `--script FILE`, or of `--source-dir FOLDER --entry-point FILE`.

    Raises UserError if the options do not name a script inside a folder.
    """
    if (script is None) == (source_dir is None) or (source_dir is None) != (entry_point is None):
        raise UserError(
            "no script is given" if script is None else "two scripts are given",
            location="hfdlc train",
            allowed="--script FILE, or --source-dir FOLDER --entry-point FILE",
        )
    if script is not None:
        if not script.is_file():
            raise UserError("no such file", location=str(script))
        return Source(script.parent, PurePosixPath(script.name))
    assert source_dir is not None
    assert entry_point is not None
    return _inside(source_dir, entry_point)


def _inside(folder: Path, entry_point: str) -> Source:
    if not folder.is_dir():
        raise UserError("no such folder", location=str(folder))
    script = folder / entry_point
    if not script.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            "the entry point is outside the source folder",
            location=entry_point,
            allowed=f"a file in {folder}, relative to it",
        )
    if not script.is_file():
        raise UserError(f"no such file in {folder}", location=entry_point)
    return Source(folder, PurePosixPath(os.path.normpath(entry_point)))


def files(source: Source, without: Collection[Path] = ()) -> dict[str, Path]:
    """The files of the folder by their relative path; links are followed, as the SageMaker SDK does.

    Hidden folders, `__pycache__`, virtual environments and the paths `without` are left out. Raises UserError
    if a link leads nowhere, something cannot be read, or the files are larger than LARGEST.
    """
    try:
        return _files(source, {path.resolve() for path in without})
    except (OSError, RuntimeError) as error:  # `resolve` raises the latter for a link to itself
        raise UserError(
            f"cannot be read: {getattr(error, 'strerror', error)}",
            location=str(getattr(error, "filename", source.folder)),
            hint="the whole folder of the script is copied: use a folder of code only",
        ) from error


def _files(source: Source, left_out: Collection[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    total = 0
    for path in _walk(source.folder, left_out, ()):
        found[path.relative_to(source.folder).as_posix()] = path
        total += path.stat().st_size
        if total > LARGEST:
            raise UserError(
                f"the source folder has more than {LARGEST / 1e9:.1f} GB of files",
                location=str(source.folder),
                hint="use --source-dir with a folder of code only, and --data for data",
            )
    return found


def _walk(folder: Path, left_out: Collection[Path], above: tuple[Path, ...]) -> Iterator[Path]:
    real = folder.resolve()
    if real in above:
        raise UserError("the link leads to a folder that contains it", location=str(folder))
    for path in sorted(folder.iterdir()):
        if path.resolve() in left_out:
            continue
        if path.is_dir():
            hidden = path.name.startswith(".") or path.name in SKIPPED
            if not hidden and not (path / "pyvenv.cfg").exists():
                yield from _walk(path, left_out, (*above, real))
        elif path.is_file():
            with path.open("rb"):  # an error before anything is started
                yield path
        elif path.is_symlink():
            raise UserError("the link leads to no file", location=str(path))
