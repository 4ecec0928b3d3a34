"""The layers of a cell, as values: templates print them, and everything else reads them here."""

from collections.abc import Mapping
from dataclasses import dataclass

from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell, LayerGroup

TOOLKIT = "inference-toolkit"  # the layer of the toolkit's own files; the layer group has what these need
NO_LOCKS: Mapping[str, str] = {}


@dataclass(frozen=True)
class Layer:
    """One layer of a cell's image, above the stage `image`; `name` is its stage in the Dockerfile."""

    cell: Cell
    name: str
    lock: str | None  # path below the repository's root; None for the toolkit, which is built from sources
    page: str | None = None  # where the framework's wheels are, beside the package index
    compiles: bool = False  # whether one of its packages has no wheel
    trains: bool = False  # whether it holds the program `train`
    cache_key: str = ""  # the hash of everything that decides its bytes; see `cache_keys`


def layers(cell: Cell, locks: Mapping[str, str] = NO_LOCKS) -> tuple[Layer, ...]:
    """The layers of a cell, from the lowest to the highest.

    `locks`: lock files (paths below the root) that replace the cell's own, by layer group.
    """
    framework = cell.groups.index(cell.group_of_rest("framework"))
    groups = [
        Layer(
            cell,
            group.name,
            locks.get(group.name) or lockfile.group_file(cell, group.name),
            # CUDA packages are below the framework, and can come from the same page.
            page=cell.source.page if position <= framework else None,
            compiles=not cell.pip_image and _compiles(cell, group),
            trains=group.rest == "type" and cell.type == "training",
        )
        for position, group in enumerate(cell.layer_groups)
    ]
    return (*groups, Layer(cell, TOOLKIT, None))


def _compiles(cell: Cell, group: LayerGroup) -> bool:
    """Whether a requirement of the cell that the group holds has no wheel."""
    sources = {lockfile.name_of(text) for text in cell.requirements(cell.packages)} & set(
        cell.base.sources_only
    )
    named = {name for each in cell.layer_groups for name in each.named}
    return bool(sources & set(group.named) or (group.rest == "type" and sources - named))
