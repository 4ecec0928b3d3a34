"""The checks of images, by their names in the sources."""

import re
from collections.abc import Collection
from pathlib import Path


def checks_in(folder: Path, without: Collection[str] = ()) -> set[str]:
    """The names of all checks in `folder`, except those of the modules in `without`."""
    files = [file for file in folder.glob("test_*.py") if file.stem not in without]
    return {name for file in files for name in re.findall(r"^def test_(\w+)", file.read_text(), re.MULTILINE)}
