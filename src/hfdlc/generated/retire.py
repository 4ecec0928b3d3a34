"""Old releases leave the matrix: their folders are removed, and a record of them is kept."""

import json
import shutil
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from hfdlc import project
from hfdlc.errors import UserError
from hfdlc.generated import ci, drift
from hfdlc.generated.text import lines_of
from hfdlc.matrix.cells import Cell
from hfdlc.project import Project
from hfdlc.state import write_whole


def retire(cells: Sequence[Cell], here: Project, today: date) -> list[str]:
    """Remove the releases of these cells from the matrix, and everything that is generated for them.

    `docs/retired.json` gets each cell with the day and the commit that can build it. Records of published
    images in `releases/` stay. Raises UserError, before anything is changed, if a release has other cells or
    the default cell, and Problems for rules that would have no effect without these cells.
    """
    indexes = sorted({cell.release for cell in cells})
    _check_whole(cells, indexes, here)
    file = here.root / "matrix.yaml"
    before = file.read_text()
    places = [lines_of(before, here, index) for index in indexes]
    _check_without(before, places)
    lines = before.splitlines(keepends=True)
    for start, end in reversed(places):
        del lines[start:end]
    record = here.root / drift.RETIRED
    retired = drift.retired(here.root) | {cell.id: _note(here, today) for cell in cells}
    write_whole(file, "".join(lines))
    write_whole(record, json.dumps(dict(sorted(retired.items())), indent=1) + "\n")
    for cell in cells:
        shutil.rmtree(here.root / cell.folder, ignore_errors=True)
    then = project.find(here.root)
    for path, text in {**drift.pages(then), **ci.files(then)}.items():
        write_whole(here.root / path, text)
    return [cell.id for cell in cells]


def _check_whole(cells: Sequence[Cell], indexes: Sequence[int], here: Project) -> None:
    chosen = {cell.id for cell in cells}
    others = [c.id for c in here.cells if c.release in indexes and c.id not in chosen]
    if others:
        raise UserError(
            f"a release is retired with all its cells, and these were not selected: {', '.join(others)}",
            hint="select them too, or remove the devices from `cells` in matrix.yaml",
        )
    if here.default in cells:
        raise UserError(
            "the release of the default cell cannot be retired",
            location=here.default.id,
            hint="change `default` in matrix.yaml first",
        )


def _check_without(text: str, places: Sequence[tuple[int, int]]) -> None:
    """Read the matrix without these lines; they become comments, so that errors have the file's lines."""
    lines = text.splitlines(keepends=True)
    for start, end in places:
        lines[start:end] = ["#\n"] * (end - start)
    with TemporaryDirectory() as folder:
        Path(folder, "matrix.yaml").write_text("".join(lines))
        project.find(Path(folder))


def _note(here: Project, today: date) -> dict[str, str]:
    """When a cell was retired, and the last commit that has it."""
    commit = here.commit()
    return {"retired": today.isoformat()} | ({"commit": commit} if commit else {})
