"""The plan: the bake file that builds the chosen cells, a pure function of values."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hfdlc.cells import Cell

# An engine with the containerd store keeps layers as they are; compressing them is for a push.
UNCOMPRESSED = "type=image,compression=uncompressed,unpack=true"


@dataclass(frozen=True)
class Machine:
    """What the building machine adds to a cell's Dockerfile; none of it stays in the image."""

    # For a public image: what takes its place here. The installer's may be the same image, made with pip.
    bases: Mapping[str, str] = field(default_factory=dict)
    installers: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)  # id -> file
    contexts: Mapping[str, str] = field(default_factory=dict)  # name -> folder
    proxies: Mapping[str, str] = field(default_factory=dict)
    brought: frozenset[str] = frozenset()  # the pages whose wheels lie in the context `wheels`
    output: str = "type=docker"


def target_name(cell: Cell) -> str:
    """The cell's id in the letters that bake allows."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", cell.id)


def bake(cells: Sequence[Cell], installer_image: str, machine: Machine, epoch: int) -> dict[str, Any]:
    """One bake file for all the cells, so that BuildKit sees the whole graph."""
    targets = {target_name(cell): _target(cell, installer_image, machine, epoch) for cell in cells}
    return {"group": {"default": {"targets": list(targets)}}, "target": targets}


def _target(cell: Cell, installer_image: str, machine: Machine, epoch: int) -> dict[str, Any]:
    installer = installer_image.format(python=cell.python)
    args = {
        "base": machine.bases.get(cell.base_image(), cell.base_image()),
        "installer_base": machine.installers.get(installer, installer),
        "SOURCE_DATE_EPOCH": str(epoch),
        **machine.proxies,
    }
    if cell.source.page in machine.brought:
        args["framework_wheels"] = "/wheels"
    return {
        "context": ".",
        "dockerfile": f"{cell.folder}/Dockerfile",
        "tags": [cell.id],
        "args": args,
        "contexts": dict(machine.contexts),
        "secret": [f"id={name},src={file}" for name, file in machine.secrets.items()],
        "output": [machine.output],
    }


def host_network(targets: Iterable[str]) -> dict[str, Any]:
    """A Compose file that gives targets the machine's network: bake of buildx 0.13 reads it there."""
    return {"services": {name: {"build": {"context": ".", "network": "host"}} for name in targets}}
