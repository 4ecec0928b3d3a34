"""The repository that a command works on."""

from dataclasses import dataclass
from pathlib import Path

from hfdlc.errors import HfdlcError, UserError
from hfdlc.matrix import cells, rules
from hfdlc.matrix import schema as matrix
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.schema import Matrix
from hfdlc.process import run


@dataclass(frozen=True)
class Project:
    """A folder with a `matrix.yaml`, and the cells of that file."""

    root: Path
    matrix: Matrix
    cells: tuple[Cell, ...]

    @property
    def templates(self) -> Path:
        return self.root / "templates"

    @property
    def default(self) -> Cell:
        """The cell that commands use if none is given."""
        return next(cell for cell in self.cells if cell.id == self.matrix.file.default)

    @property
    def repositories(self) -> list[str]:
        """The image repositories of all cells."""
        return sorted({cell.repository for cell in self.cells})

    def commit(self) -> str | None:
        """The commit that is checked out; None outside a clone, or without git."""
        try:
            return run(["git", "rev-parse", "HEAD"], cwd=self.root).stdout.strip()
        except HfdlcError:
            return None


def find(start: Path) -> Project:
    """The project that contains a folder.

    Raises UserError if there is none, Problems if its matrix has errors.
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
