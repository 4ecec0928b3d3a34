"""The plan: the bake file that builds the chosen cells, a pure function of values."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfdlc.dockerfile import inputs, layers, render
from hfdlc.dockerfile.inputs import Inputs
from hfdlc.dockerfile.layers import Part
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.schema import Matrix

AS_IT_IS = "type=oci,tar=false,compression=uncompressed"
# Into an engine with the containerd store, with new layers as they are.
ADDED = "type=image,compression=uncompressed,unpack=true"


@dataclass(frozen=True)
class Machine:
    """What the building machine adds to a cell's Dockerfile; none of it stays in the image."""

    # By build argument, then by public image or by cell: what takes its place here. The images of `base` and
    # `installer_base` may be the same, and their places taken by different ones.
    images: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)  # id -> file
    contexts: Mapping[str, str] = field(default_factory=dict)  # name -> folder
    proxies: Mapping[str, str] = field(default_factory=dict)
    brought: frozenset[str] = frozenset()  # the cells whose framework this machine has
    wheels: str = "/wheels"  # where that is: in the context `wheels`, or at an address
    dockerfiles: Mapping[str, str] = field(default_factory=dict)  # by cell: in place of the repository's
    inputs: Mapping[str, Inputs] = field(default_factory=dict)  # by cell: what its image is made from
    starts: Mapping[str, Mapping[str, str]] = field(
        default_factory=dict
    )  # by cell, by build argument: digests
    room: Mapping[str, str] = field(default_factory=dict)  # the argument that says where layers are made
    output: str = "type=docker"
    cache: str | None = None  # a registry, HOST/PREFIX, that keeps layers between machines


def target_name(cell: Cell) -> str:
    """The cell's id in the letters that bake allows."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", cell.id)


def layers_of(cell: Cell, root: Path, machine: Machine) -> list[Part]:
    """The layers of a cell as this machine makes them; see `layers.parts`."""
    return layers.parts(
        cell,
        root,
        base_digests=machine.starts.get(cell.id, {}),
        dockerfile=machine.dockerfiles.get(cell.id),
    )


def bake(cells: Sequence[Cell], matrix: Matrix, machine: Machine) -> dict[str, Any]:
    """One bake file for all the cells, so that BuildKit sees the whole graph."""
    targets = {target_name(cell): _target(cell, matrix, machine) for cell in cells}
    return {"group": {"default": {"targets": list(targets)}}, "target": targets}


def parts(
    cells: Sequence[Cell],
    laid: Mapping[str, Sequence[Part]],
    missing: Sequence[Part],
    matrix: Matrix,
    machine: Machine,
    layout: Path,
    folder: Path,
) -> dict[str, Any]:
    """One bake file that makes images without their layers, and each layer that is missing as a file.

    `laid`: the layers of each cell; one that has none is made whole. Images go into the OCI layout `layout`,
    as they are; layers into `folder`, each into one of its name.
    """
    targets: dict[str, dict[str, Any]] = {}
    for cell in cells:
        target = _target(cell, matrix, machine) | {"output": [f"{AS_IT_IS},dest={layout}"]}
        del target["tags"]
        targets[target_name(cell)] = target | ({"target": "image"} if laid[cell.id] else {})
    for part in missing:
        target = _target(part.cell, matrix, machine)
        del target["tags"], target["labels"]
        targets[f"{part.stage}-{part.name}"] = {
            **target,
            "target": "packed",
            "args": {**target["args"], "layer": part.stage, **machine.room},
            "output": [f"type=local,dest={folder / part.name}"],
            **(_layer_cache(machine.cache, part) if machine.cache else {}),
        }
    return {"group": {"default": {"targets": list(targets)}}, "target": targets}


def chosen(public: Mapping[str, str], images: Mapping[str, Mapping[str, str]], cell: Cell) -> dict[str, str]:
    """What a cell starts from on this machine, by build argument."""
    here = {name: images.get(name, {}) for name in public}
    return {name: here[name].get(cell.id) or here[name].get(image, image) for name, image in public.items()}


def _target(cell: Cell, matrix: Matrix, machine: Machine) -> dict[str, Any]:
    args = {
        **chosen(render.images(cell, matrix), machine.images, cell),
        "SOURCE_DATE_EPOCH": str(render.EPOCH),
        **machine.proxies,
    }
    if cell.id in machine.brought:
        args["framework_wheels"] = machine.wheels
    other = machine.dockerfiles.get(cell.id)
    return {
        "context": ".",
        **(
            {"dockerfile-inline": other.replace("${", "$${")}  # bake has variables of its own
            if other
            else {"dockerfile": f"{cell.folder}/Dockerfile"}
        ),
        "tags": [cell.id],
        "args": args,
        "labels": {
            "io.hfdlc.base": args["base"],  # what it really came from
            **({inputs.LABEL: inputs.text(machine.inputs[cell.id])} if cell.id in machine.inputs else {}),
        },
        "contexts": dict(machine.contexts),
        "secret": [f"id={name},src={file}" for name, file in machine.secrets.items()],
        "output": [machine.output],
        **(_cache(machine.cache, cell, matrix) if machine.cache else {}),
    }


def _cache(registry: str, cell: Cell, matrix: Matrix) -> dict[str, Any]:
    """The layers of all stages, kept at a registry; those of its other types are looked for."""
    at = f"type=registry,ref={registry}/cache-{cell.framework}"
    kept = [f"{at}-{kind}:{cell.tag}" for kind in matrix.file.types]
    return {"cache-from": kept, "cache-to": [f"{at}-{cell.type}:{cell.tag},mode=max,ignore-error=true"]}


def _layer_cache(registry: str, part: Part) -> dict[str, Any]:
    """The packed layer alone: what it was made from need not be there for it to be found."""
    at = f"type=registry,ref={registry}/cache-layers:{part.name}"
    return {"cache-from": [at], "cache-to": [f"{at},compression=uncompressed,ignore-error=true"]}


def host_network(targets: Iterable[str]) -> dict[str, Any]:
    """A Compose file that gives targets the machine's network: bake of buildx 0.13 reads it there."""
    return {"services": {name: {"build": {"context": ".", "network": "host"}} for name in targets}}
