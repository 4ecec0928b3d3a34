"""The repository that a command works on: its matrix, its cells, its folders."""

from dataclasses import dataclass
from pathlib import Path

from hfdlc.errors import UserError
from hfdlc.matrix import cells, rules
from hfdlc.matrix import schema as matrix
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.schema import Matrix


@dataclass(frozen=True)
class Project:
    """A folder with a `matrix.yaml`."""

    root: Path
    matrix: Matrix
    cells: tuple[Cell, ...]

    @property
    def templates(self) -> Path:
        """What Dockerfiles are printed from."""
        return self.root / "templates"

    @property
    def default(self) -> Cell:
        """The cell that a command means when none is named."""
        return next(cell for cell in self.cells if cell.id == self.matrix.file.default)


def find(start: Path) -> Project:
    """The project around a folder.

    Raises UserError where there is none, Problems where its matrix is wrong.
    """
    for folder in (start, *start.parents):
        if (folder / "matrix.yaml").is_file():
            read = matrix.read(folder / "matrix.yaml")
            found = cells.cells(read)
            rules.check(read, found)
            return Project(folder, read, found)
    raise UserError(
        "no matrix.yaml in this folder or in a parent folder",
        location=str(start),
        hint="run this in a clone of the repository",
    )
