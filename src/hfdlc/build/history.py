"""What builds on this machine took: one line for each built cell, in the state folder."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from hfdlc.matrix.cells import Cell
from hfdlc.state import State

FILE = "history.jsonl"


@dataclass(frozen=True)
class Build:
    """One cell that was built."""

    cell: str
    date: str  # ISO, UTC
    seconds: float  # of the batch that it was built in
    bytes: int  # of the image, uncompressed
    layers: Mapping[str, int] = field(default_factory=dict)  # layer -> bytes, uncompressed


def add(build: Build, state: State) -> None:
    """Append a line."""
    path = state.folder(".") / FILE
    with path.open("a") as file:
        file.write(json.dumps(asdict(build)) + "\n")


def read(state: State) -> list[Build]:
    """All builds, oldest first; what is damaged, of another version or cannot be read is left out."""
    found = []
    try:
        lines = (state.root / FILE).read_text(errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            build = Build(**json.loads(line))
            found.append(
                Build(build.cell, build.date, float(build.seconds), int(build.bytes), dict(build.layers))
            )
        except (ValueError, TypeError):
            continue
    return found


def last(cell: Cell, builds: list[Build]) -> Build | None:
    """The last build of a cell."""
    return next((build for build in reversed(builds) if build.cell == cell.id), None)
