"""Digests of files follow the files, except while a plan takes them as unchanging."""

import os
from pathlib import Path

import pytest

from hfdlc.locks import files


def changed(file: Path, text: str, seconds: int) -> None:
    """Write a file as at another time."""
    file.write_text(text)
    os.utime(file, (seconds, seconds))


def test_digest_follows_the_file(tmp_path: Path) -> None:
    """Also where only its time says that it has changed."""
    file = tmp_path / "a.lock"
    changed(file, "one", 1)
    first = files.digest(str(file))
    assert first == files.digest_of(b"one")
    changed(file, "two", 2)
    assert files.digest(str(file)) == files.digest_of(b"two")
    file.unlink()
    with pytest.raises(FileNotFoundError):
        files.digest(str(file))


def test_files_are_unchanging_only_while_that_lasts(tmp_path: Path) -> None:
    file = tmp_path / "a.lock"
    changed(file, "one", 1)
    with files.unchanging():
        before, stamp = files.digest(str(file)), files.stamp(tmp_path)
        changed(file, "longer", 2)
        assert (files.digest(str(file)), files.stamp(tmp_path)) == (before, stamp)
    assert files.digest(str(file)) == files.digest_of(b"longer")
    assert files.stamp(tmp_path) != stamp
