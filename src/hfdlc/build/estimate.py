"""What a build would do: the layers that are missing, and the disk space that it needs."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from hfdlc.build import freshness, history
from hfdlc.build.freshness import ImagesHere
from hfdlc.build.history import Build
from hfdlc.dockerfile import inputs
from hfdlc.dockerfile.cache_keys import keyed_layers
from hfdlc.dockerfile.layers import Layer
from hfdlc.engine import images
from hfdlc.engine.detect import Engine
from hfdlc.locks import files, lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.oci.store import FOLDER, LayerStore, StoredLayer
from hfdlc.project import Project
from hfdlc.state import State

# Measured on the PyTorch and TensorFlow images of today.
PACKED = 0.5  # bytes of a packed layer for each of its own bytes
COPIES = 3  # of a packed layer while it is built: in the stage, in the stage `layer-archive`, in the store
TYPICAL = 0.6  # of a cell's size budget that its image has
BASE = 190e6  # bytes of a base image
LAYERS = 24  # that a cell may add to its base image
SERVERLESS = 10_737_418_240  # bytes of an image that SageMaker Serverless accepts


@dataclass(frozen=True)
class CellPlan:
    """What a build would do with one cell."""

    cell: str
    state: str  # up to date, to build, or why it cannot be built: unlocked, stale, incomplete
    inputs: str = ""  # their digest
    changed: list[str] = field(default_factory=list)  # inputs that differ from those of the image here
    layers: list[str] = field(default_factory=list)  # that are missing in the layer store
    breaks: list[str] = field(default_factory=list)  # limits


@dataclass(frozen=True)
class Plan:
    """What a build would do."""

    cells: list[CellPlan]
    layers: int = 0  # to build, each counted once
    shared: int = 0  # of these, in several cells
    disk: int = 0  # bytes needed meanwhile
    free: int | None = None  # bytes free; None where the engine's disk is not known
    keyed: Mapping[str, tuple[Layer, ...]] = field(default_factory=dict)  # the layers of each locked cell

    def json(self) -> dict[str, Any]:
        """The value of `forecast` in `hfdlc plan --json`."""
        names = [each.name for each in fields(self) if each.name not in ("cells", "keyed")]
        values = {name: getattr(self, name) for name in names}
        return {"cells": [asdict(cell) for cell in self.cells], **values}


class Costs:
    """The disk space that building cells needs, from the layers that are missing.

    Sizes of layers are those of earlier builds of the cell; unknown ones share what is left of its budget.
    """

    def __init__(self, project: Project, engine: Engine | None, state: State) -> None:
        self._project, self._store = project, LayerStore(state.root / FOLDER)
        self._builds = history.read(state)
        built = {build.cell for build in self._builds}
        self._built = [cell for cell in project.cells if cell.id in built]
        self._engine = engine
        self._known: dict[str, tuple[Layer, ...]] = {}
        self._looked_up: dict[str, StoredLayer | None] = {}

    @cached_property
    def _there(self) -> set[str]:
        """The layers in the engine, which has to be asked for each of its images."""
        return _layers_of(self._engine) if self._engine else set()

    def layers(self, cell: Cell, image_inputs: inputs.Inputs) -> tuple[Layer, ...]:
        """The layers of a cell, with the cache keys that they have with these inputs."""
        if cell.id not in self._known:
            self._known[cell.id] = keyed_layers(cell, self._project, image_inputs)
        return self._known[cell.id]

    def missing(self, cell: Cell) -> list[Layer]:
        """The layers of a cell that the layer store lacks."""
        return [layer for layer in self._known[cell.id] if not self._stored(layer.cache_key)]

    def _stored(self, cache_key: str) -> StoredLayer | None:
        if cache_key not in self._looked_up:
            self._looked_up[cache_key] = self._store.get(cache_key)
        return self._looked_up[cache_key]

    def disk(self, cells: Sequence[Cell], *, in_memory: bool = True) -> int:
        """Bytes that building the cells in one batch needs; `in_memory`: layers are packed from memory."""
        sizes: dict[str, int] = {}
        for cell in cells:
            own = self.sizes(cell)
            for layer in self._known[cell.id]:
                sizes[layer.cache_key] = max(own[layer.name], sizes.get(layer.cache_key, 0))
        return int(sum(self._bytes(key, size, in_memory=in_memory) for key, size in sizes.items()))

    def sizes(self, cell: Cell) -> dict[str, int]:
        """The bytes of each layer, uncompressed."""
        names = [layer.name for layer in self._known[cell.id]]
        known = _known_sizes(cell, self._built, self._builds)
        found = {name: known[name] for name in names if name in known}
        unknown = [name for name in names if name not in known]
        rest = max(cell.size * TYPICAL - BASE - sum(found.values()), 0)
        return found | {name: int(rest / len(unknown)) for name in unknown}

    def _bytes(self, cache_key: str, size: int, *, in_memory: bool) -> float:
        stored = self._stored(cache_key)
        loaded = size * (1 + PACKED)
        if stored:
            return 0 if stored.diff_id in self._there else loaded
        return size * (COPIES * PACKED + (0 if in_memory else 1)) + loaded


def plan(cells: Sequence[Cell], project: Project, engine: Engine | None, state: State) -> Plan:
    """What a build of the cells would do, without requests to registries and without starting an engine."""
    costs, here = Costs(project, engine, state), ImagesHere(engine)
    with files.unchanging():
        found = [_cell_plan(cell, project, here, costs) for cell in cells]
    todo = [cell for cell, one in zip(cells, found, strict=True) if one.state == "to build"]
    missing = Counter(layer.cache_key for cell in todo for layer in costs.missing(cell))
    return Plan(
        found,
        layers=len(missing),
        shared=sum(times > 1 for times in missing.values()),
        disk=costs.disk(todo),
        free=free(state, engine),
        keyed={
            one.cell: costs.layers(cell, {}) for cell, one in zip(cells, found, strict=True) if one.inputs
        },
    )


def _cell_plan(cell: Cell, project: Project, here: ImagesHere, costs: Costs) -> CellPlan:
    state = lockfile.state(cell, project.root)
    if state != "locked":
        return CellPlan(cell.id, state)
    now, before = here.inputs(cell, project), here.label(cell.id)
    changed = [] if before is None else freshness.changed(before, now)
    layers = costs.layers(cell, now)
    if before is not None and not changed:
        return CellPlan(cell.id, "up to date", inputs.digest(now), breaks=_breaks(cell, layers, costs))
    return CellPlan(
        cell.id,
        "to build",
        inputs.digest(now),
        changed,
        [layer.name for layer in costs.missing(cell)],
        _breaks(cell, layers, costs),
    )


def _breaks(cell: Cell, layers: Sequence[Layer], costs: Costs) -> list[str]:
    found = [f"{len(layers)} layers, of {LAYERS}"] if len(layers) > LAYERS else []
    if cell.type == "inference" and cell.device == "cpu":
        size = int(BASE) + sum(costs.sizes(cell).values())
        found += [f"{size} bytes, of {SERVERLESS} for SageMaker Serverless"] if size > SERVERLESS else []
    return found


def _known_sizes(cell: Cell, built: Sequence[Cell], builds: list[Build]) -> Mapping[str, int]:
    """The sizes of layers in the last build of the cell, else of a cell of the same framework and device.

    `built`: the cells of the matrix that have builds.
    """
    if own := history.last(cell, builds):
        return own.layers
    alike = (
        each
        for each in built
        if (each.framework, each.framework_version, each.cuda)
        == (cell.framework, cell.framework_version, cell.cuda)
    )
    sizes: dict[str, int] = {}
    for each in alike:
        if build := history.last(each, builds):
            shared = set(each.groups) & set(cell.groups)
            sizes |= {
                name: size
                for name, size in build.layers.items()
                if name in shared and name != cell.group_of_rest("type")
            }
    return sizes


def _layers_of(engine: Engine) -> set[str]:
    """The diff ids of all layers of cells' images in the engine."""
    found = images.every(engine, label=inputs.LABEL)
    return {digest for image in found for digest in image.attrs["RootFS"].get("Layers") or []}


def free(state: State, engine: Engine | None = None) -> int | None:
    """Bytes free where a private engine keeps images; None where another engine does."""
    if engine and not engine.private:
        return None
    folder = state.root
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def batch(cells: Sequence[Cell], room: int | None, costs: Costs, *, memory: int = 0) -> list[Cell]:
    """The cells that can be built together in `room` bytes: the largest, and those that share most with it.

    Empty where none fits. `memory`: bytes of the engine's memory.
    """
    if room is None:
        return list(cells)
    chosen: list[Cell] = []
    left = sorted(cells, key=lambda cell: disk(costs, [cell], memory), reverse=True)
    while left:
        nearest = min(left, key=lambda cell: _new_part(costs, chosen, cell, memory)) if chosen else left[0]
        left.remove(nearest)
        if disk(costs, [*chosen, nearest], memory) <= room:
            chosen.append(nearest)
    return chosen


def _new_part(costs: Costs, chosen: Sequence[Cell], cell: Cell, memory: int) -> float:
    """The part of a cell's disk space that it needs beside cells that were chosen before."""
    more = disk(costs, [*chosen, cell], memory) - disk(costs, chosen, memory)
    return more / max(disk(costs, [cell], memory), 1)


def disk(costs: Costs, cells: Sequence[Cell], memory: int) -> int:
    """Bytes that one batch needs on a machine with so much memory."""
    return costs.disk(cells, in_memory=fits_in_memory(cells, memory))


def fits_in_memory(cells: Sequence[Cell], memory: int) -> bool:
    """Whether the layers of cells can be written to memory before they are packed: if they fit twice."""
    return 2 * sum(cell.size for cell in cells) < memory
