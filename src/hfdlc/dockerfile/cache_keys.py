"""Cache keys: cells whose layers have the same cache key share one layer."""

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from hfdlc.dockerfile import inputs, render
from hfdlc.dockerfile.inputs import Inputs
from hfdlc.dockerfile.layers import NO_LOCKS, Layer, layers
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.project import Project

NO_INPUTS: Inputs = {}


def keyed_layers(
    cell: Cell, project: Project, image_inputs: Inputs = NO_INPUTS, locks: Mapping[str, str] = NO_LOCKS
) -> tuple[Layer, ...]:
    """The layers of a cell with their cache keys.

    `image_inputs`: the inputs of the cell's image, for the digests of the images that layers are made in.
    `locks`: see `layers`. The cell must be locked.
    """
    root, stages = project.root, render.Stages(cell, project.matrix, project.templates)
    tools = (
        *map(_instructions, (stages.tools(), stages.archive())),
        lockfile.digest(root / lockfile.installer_file(cell.installer_python)),
        inputs.finish(root),
        inputs.pack(root),
    )
    return tuple(
        layer.with_key(_digest(tools, tuple(_own(layer, stages, root, image_inputs))))
        for layer in layers(cell, root, locks)
    )


def _own(layer: Layer, stages: render.Stages, root: Path, image_inputs: Inputs) -> Iterator[str]:
    """What decides the bytes of a layer, beside the tools that every layer of its cell is made with."""
    # Without the path of the lock file: cells that lock the same packages share the layer.
    yield _instructions(stages.layer(layer, lock="lock"))
    yield layer.lock_digest or (
        lockfile.digest(f"{root}/{layer.lock}") if layer.lock else inputs.toolkit(root)
    )
    yield _instructions(stages.compiler()) if layer.compiles else ""
    yield inputs.train(root) if layer.trains else ""
    for image in _images(layer):
        yield image_inputs.get(image, "")


@cache
def _digest(tools: tuple[str, ...], own: tuple[str, ...]) -> str:
    text = "".join(f"{each}\0" for each in tools) + "\0".join(own)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _images(layer: Layer) -> tuple[str, ...]:
    """The build arguments of the images that a layer is made in."""
    if layer.cell.pip_image:
        return ("installer_base", "pip_base")
    return ("installer_base", "compiler_base") if layer.compiles else ("installer_base",)


@cache
def _instructions(text: str) -> str:
    """A stage without its comments."""
    return "\n".join(line for line in text.splitlines() if line and not line.startswith("#"))


def distinct(keyed: Mapping[str, tuple[Layer, ...]]) -> list[Layer]:
    """The layers of cells, each cache key once."""
    return list({layer.cache_key: layer for each in keyed.values() for layer in each}.values())
