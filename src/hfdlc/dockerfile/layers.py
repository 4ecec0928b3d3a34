"""The layers of a cell, as values: templates print them, and everything else reads them here."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hfdlc.locks import lockfile
from hfdlc.locks.lockfile import NO_LOCKS as NO_LOCKS
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.schema import Removals

MISSING = lockfile.Locked("", frozenset())
TOOLKIT = "inference-toolkit"  # the layer of the toolkit's own files; the layer group has what these need


@dataclass(frozen=True)
class Layer:
    """One layer of a cell's image, above the stage `image`; `name` is its stage in the Dockerfile."""

    cell: Cell
    name: str
    lock: str | None  # path below the repository's root; None for the toolkit, which is built from sources
    lock_digest: str = ""  # of the packages; empty where there is no lock file
    page: str | None = None  # where the framework's wheels are, beside the package index
    compiles: bool = False  # whether one of its packages has no wheel
    trains: bool = False  # whether it holds the program `train`
    finish: tuple[str, ...] = ()  # options of `finish`: what the layer's packages lose
    cache_key: str = ""  # the hash of everything that decides its bytes; see `cache_keys`

    def with_key(self, key: str) -> "Layer":
        """The same layer with this cache key: `dataclasses.replace` is slow."""
        found = object.__new__(Layer)
        found.__dict__.update(self.__dict__, cache_key=key)
        return found


def layers(cell: Cell, root: Path, locks: Mapping[str, str] = NO_LOCKS) -> tuple[Layer, ...]:
    """The layers of a cell, from the lowest to the highest.

    `locks`: lock files (paths below the root) that replace the cell's own, by layer group.
    """
    compiled = _compiled(cell)
    framework = cell.groups.index(cell.group_of_rest("framework"))
    files = {name: locks.get(name) or lockfile.group_file(cell, name) for name in cell.groups}
    contents = {name: lockfile.locked(f"{root}/{file}") or MISSING for name, file in files.items()}
    groups = [
        Layer(
            cell,
            group.name,
            files[group.name],
            contents[group.name].digest,
            # CUDA packages are below the framework, and can come from the same page.
            page=cell.source.page if position <= framework else None,
            compiles=group.name in compiled,
            trains=group.rest == "type" and cell.type == "training",
            finish=_options(cell.slim, contents[group.name].names),
        )
        for position, group in enumerate(cell.layer_groups)
    ]
    return (*groups, Layer(cell, TOOLKIT, None, finish=_options(cell.slim, frozenset())))


def compiles(cell: Cell) -> bool:
    """Whether a layer of the cell is made with a compiler."""
    return bool(_compiled(cell))


def _compiled(cell: Cell) -> set[str]:
    """The layer groups that hold a requirement of the cell without a wheel; none if pip installs them."""
    if cell.pip_image:
        return set()
    sources = {lockfile.name_of(text) for text in cell.requirements(cell.packages)}
    sources &= set(cell.base.sources_only)
    if not sources:
        return set()
    named = {name for group in cell.layer_groups for name in group.named}
    return {
        group.name
        for group in cell.layer_groups
        if sources & set(group.named) or (group.rest == "type" and sources - named)
    }


@cache
def _options(slim: Removals, held: frozenset[str]) -> tuple[str, ...]:
    """The options of `finish` for a layer that contains these packages."""
    patterns: dict[str, list[str]] = {"files": [], "symbols": []}
    for each in slim:
        if not each.packages or not held.isdisjoint(each.packages):
            patterns[each.remove] += each.files
    options = {"--remove": patterns["files"], "--strip": patterns["symbols"]}
    return tuple(
        " ".join([option, *(f"'{pattern}'" for pattern in found)])
        for option, found in options.items()
        if found
    )
