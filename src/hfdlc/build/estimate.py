"""What a build will cost, told from what earlier builds here left, or guessed and called a guess."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from hfdlc.build import records
from hfdlc.build.records import Record
from hfdlc.dockerfile import cache_keys, inputs
from hfdlc.errors import HfdlcError
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.project import Project
from hfdlc.state import State

if TYPE_CHECKING:
    from hfdlc.engine.detect import Engine

# Guesses, for each byte of a new layer (uncompressed): what is downloaded, what goes over the wire when it is
# pushed with zstd, and what the disk holds at the end: package cache, stage, layer, and the layer unpacked.
# Measured once, on the PyTorch images: 0.25 for a push, 4.3 on disk.
DOWNLOADED, PUSHED, ON_DISK = 0.3, 0.25, 4.5
RECEIPTS = 20  # the last ones tell the rate
RATE = 40e6  # bytes of new layers a second, where no build has shown it
ENOUGH = 100e6  # bytes that a run must have written to tell a rate
BASE = 190e6  # bytes of a base that no build has shown
LAYERS = 24  # that a cell may lay above its base
SERVERLESS = 10_737_418_240  # bytes of an image that SageMaker Serverless takes


@dataclass
class Outlook:
    """What a build would do with one cell."""

    cell: str
    state: str  # up to date, to build, or why it cannot be built: unlocked, stale, incomplete
    changed: list[str] = field(default_factory=list)  # inputs that differ from the last build's
    layers: dict[str, str] = field(default_factory=dict)  # stage -> address
    breaks: list[str] = field(default_factory=list)  # limits


@dataclass
class Forecast:
    """What a build would do."""

    cells: list[Outlook]
    layers: int = 0  # to lay, each counted once
    shared: int = 0  # of these, laid in several cells
    write: int = 0  # bytes of new layers
    download: int = 0
    push: int = 0
    seconds: float = 0.0
    rate_from: int = 0  # builds that told the rate; 0: a guess
    disk: int = 0  # bytes needed
    free: int | None = None  # bytes free; None where the engine's disk is not this machine's

    def is_buildable(self, cell: Cell) -> bool:
        """Whether the cell is locked."""
        return any(one.cell == cell.id and one.layers for one in self.cells)

    def json(self) -> dict[str, Any]:
        """The documented keys of `hfdlc plan --json`, beside `bake`."""
        return asdict(self)


def forecast(cells: Sequence[Cell], project: Project, state: State) -> Forecast:
    """The future of a build of the cells, as the records of this machine tell it; no engine is asked."""
    last = {cell.id: records.last(cell, state) for cell in cells}
    outlooks = [_outlook(cell, project, last[cell.id]) for cell in cells]
    told = Forecast(outlooks)
    todo = [(cell, one) for cell, one in zip(cells, outlooks, strict=True) if one.state == "to build"]
    known = records.sizes(last)
    there = {address for record in last.values() if record for address in record.layers}
    new = Counter(address for _, one in todo for address in one.layers.values() if address not in there)
    told.layers, told.shared = len(new), sum(times > 1 for times in new.values())
    told.write = sum(_sizes([cell for cell, _ in todo], outlooks, known, there).values())
    told.download, told.push = int(told.write * DOWNLOADED), int(told.write * PUSHED)
    rate, told.rate_from = _rate(state)
    told.seconds = round(told.write / rate + 2 * len(todo))
    told.disk = int(told.write * ON_DISK)
    told.free = free(state)
    return told


def _outlook(cell: Cell, project: Project, record: Record | None) -> Outlook:
    state = lockfile.state(cell, project.root)
    if state != "locked":
        return Outlook(cell.id, state)
    keyed = cache_keys.keyed_layers(cell, project, record.inputs if record else {})
    layers = {layer.name: layer.cache_key for layer in keyed}
    breaks = [f"{len(layers)} layers, of {LAYERS}"] if len(layers) > LAYERS else []
    if cell.type == "inference" and cell.device == "cpu":
        size = record.below + sum(record.layers.values()) if record else cell.size
        breaks += [f"{size} bytes, of {SERVERLESS} for SageMaker Serverless"] if size > SERVERLESS else []
    starts = ("base", "installer_base", "compiler_base", "pip_base")
    before = {name: value for name, value in record.inputs.items() if name not in starts} if record else {}
    changed = inputs.changed(before, inputs.of(cell, project.root, {}))
    return Outlook(
        cell.id, "to build" if changed else "up to date", changed if record else [], layers, breaks
    )


def _sizes(
    cells: Sequence[Cell], outlooks: Sequence[Outlook], known: dict[str, int], there: set[str]
) -> dict[str, int]:
    """The bytes of every layer that is to be written; what no build has shown fills its cell's budget."""
    laid = {one.cell: list(one.layers.values()) for one in outlooks}
    found: dict[str, int] = {}
    for cell in cells:
        unknown = [address for address in laid[cell.id] if address not in known and address not in found]
        rest = cell.size - BASE - sum(known.get(a, found.get(a, 0)) for a in laid[cell.id])
        found |= dict.fromkeys(unknown, int(max(rest, 0) / max(len(unknown), 1)))
        found |= {a: known[a] for a in laid[cell.id] if a in known and a not in there}
    return found


def _rate(state: State) -> tuple[float, int]:
    """Bytes of new layers a second, and how many builds of this machine tell it."""
    runs = []
    for file in sorted((state.root / "receipts").glob("*.json"))[-RECEIPTS:]:
        try:
            receipt = json.loads(file.read_text())
            runs.append((int(receipt["written"]), float(receipt["seconds"])))
        except (ValueError, KeyError, TypeError, OSError):
            continue
    runs = [run for run in runs if run[0] >= ENOUGH]
    written, seconds = sum(run[0] for run in runs), sum(run[1] for run in runs)
    return (written / seconds, len(runs)) if seconds else (RATE, 0)


def free(state: State, used: "Engine | None" = None) -> int | None:
    """Bytes free where a private engine keeps images; None where another engine does."""
    if used and not used.private:
        return None
    folder = state.root
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def refuse_what_cannot_fit(cells: Sequence[Cell], project: Project, used: "Engine", state: State) -> None:
    """Raise HfdlcError where the disk has no room for the cells, and say which of them it has room for."""
    room = free(state, used)
    if room is None or not cells or forecast(cells, project, state).disk <= room:
        return
    fitting: list[Cell] = []
    for cell in cells:
        if forecast([*fitting, cell], project, state).disk <= room:
            fitting.append(cell)
    needed = forecast(cells, project, state).disk
    fits = f"hfdlc build {' '.join(cell.id for cell in fitting)}" if fitting else "none of them fits"
    raise HfdlcError(
        f"{len(cells)} cells need about {needed / 1e9:.0f} GB of disk while they are built, "
        f"and {room / 1e9:.0f} GB are free",
        where=str(state.root),
        then=f"make room (`hfdlc engine prune`), or build what fits: {fits}",
    )
