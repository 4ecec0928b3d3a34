"""Selecting cells by id, by glob, or by axis."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from hfdlc.errors import UserError
from hfdlc.matrix.cells import Cell


@dataclass(frozen=True)
class Filter:
    """The selection of a command line. An empty one selects every cell."""

    patterns: tuple[str, ...] = ()
    framework: str | None = None
    type: str | None = None
    device: str | None = None
    transformers: str | None = None

    def __str__(self) -> str:
        axes = ("framework", "type", "device", "transformers")
        options = [f"--{axis} {getattr(self, axis)!r}" for axis in axes if getattr(self, axis)]
        return " ".join([*self.patterns, *options]) or "(no filter)"


def select(cells: Sequence[Cell], wanted: Filter) -> tuple[Cell, ...]:
    """The selected cells, in the order of the matrix.

    Raises UserError if there are none, or if a pattern matches none.
    """
    for pattern in wanted.patterns:
        if not any(_named(cell, pattern) for cell in cells):
            raise _nothing(cells, Filter(patterns=(pattern,)))
    chosen = tuple(cell for cell in cells if _matches(cell, wanted))
    if not chosen:
        raise _nothing(cells, wanted)
    return chosen


def _matches(cell: Cell, wanted: Filter) -> bool:
    return (
        (not wanted.patterns or any(_named(cell, pattern) for pattern in wanted.patterns))
        and wanted.framework in (None, cell.framework)
        and wanted.type in (None, cell.type)
        and wanted.device in (None, cell.device, cell.cuda)
        and (not wanted.transformers or _specifier(wanted.transformers).contains(cell.transformers_version))
    )


def _named(cell: Cell, pattern: str) -> bool:
    return fnmatchcase(cell.id, pattern) or fnmatchcase(cell.tag, pattern)


def _specifier(text: str) -> SpecifierSet:
    try:
        return SpecifierSet(text if not text[0].isdigit() else f"=={text}", prereleases=True)
    except InvalidSpecifier as error:
        raise UserError(
            f"--transformers {text!r} is not a version or version range",
            allowed="a version (5.23.0) or a range ('>=5,<6')",
        ) from error


def _nothing(cells: Sequence[Cell], wanted: Filter) -> UserError:
    names = {name: cell.id for cell in reversed(cells) for name in (cell.id, cell.tag)}
    near = difflib.get_close_matches(wanted.patterns[0] if wanted.patterns else "", names, 1)
    return UserError(
        f"no cell matches {wanted}",
        hint=(f"did you mean {names[near[0]]}? " if near else "") + "`hfdlc list` prints all cells",
    )
