"""What a tool of the repository replaces in a build; no command does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hfdlc.dockerfile.layers import NO_LOCKS
from hfdlc.matrix.cells import Cell


def _nothing(_argument: str, _image: str, _cell: Cell) -> str | None:
    return None


@dataclass(frozen=True)
class Overrides:
    """Images and lock files that replace those of cells."""

    # What replaces a public image of a cell, by its build argument; None where nothing does.
    image: Callable[[str, str, Cell], str | None] = _nothing
    locks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by cell: see `layers.layers`

    def locks_of(self, cell: Cell) -> Mapping[str, str]:
        """The lock files (paths below the root) that replace those of a cell, by layer group."""
        return self.locks.get(cell.id, NO_LOCKS)


NONE = Overrides()
