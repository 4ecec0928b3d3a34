"""Private engines beside the one that the tests use."""

import shutil

from hfdlc.engine.folders import Folders
from hfdlc.state import State


def copy_programs(source: State, target: State) -> None:
    """Give a state folder the programs that another one has, so that nothing is downloaded twice."""
    here, there = Folders.of(source), Folders.of(target)
    if here.root.is_dir():
        shutil.copytree(here.root, there.root, symlinks=True)
        shutil.copy(here.base / "packages", there.base / "packages")
    if (source.root / "mmdebstrap").is_dir():
        shutil.copytree(source.root / "mmdebstrap", target.root / "mmdebstrap", symlinks=True)
