"""The bake file that `docker buildx bake` runs to build cells: a pure function of values."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfdlc.dockerfile import inputs, render
from hfdlc.dockerfile.cache_keys import keyed_layers
from hfdlc.dockerfile.inputs import Inputs
from hfdlc.dockerfile.layers import Layer
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.schema import Matrix
from hfdlc.project import Project

ECR = re.compile(r"\d{12}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.")
LAYOUT = "type=oci,tar=false,compression=uncompressed"
# Into an engine with the containerd image store; new layers are not compressed.
LOADED = "type=image,compression=uncompressed,unpack=true"


@dataclass(frozen=True)
class BuildContext:
    """What the building machine adds to a cell's Dockerfile; none of it stays in the image."""

    # By build argument, then by public image or by cell: the image that replaces it here. The images of
    # `base` and `installer_base` may be the same, and be replaced by different ones.
    images: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)  # id -> file
    contexts: Mapping[str, str] = field(default_factory=dict)  # name -> folder
    arguments: Mapping[str, str] = field(default_factory=dict)  # of the build: proxies
    has_local_wheels: frozenset[str] = frozenset()  # the cells whose framework this machine has
    wheels: str = "/wheels"  # where that is: in the context `wheels`, or a URL
    locks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by cell: see `layers.layers`
    dockerfiles: Mapping[str, str] = field(
        default_factory=dict
    )  # by cell: texts that replace the repository's
    inputs: Mapping[str, Inputs] = field(default_factory=dict)  # by cell: what its image is made from
    base_images: Mapping[str, str] = field(default_factory=dict)  # by cell: its base, with the digest
    layouts: Mapping[str, str] = field(default_factory=dict)  # by image: an OCI layout that replaces it
    platform: str = ""  # of builders that may have several
    scratch: str = ""  # a folder of the build in which layers are made, in memory if there is enough
    output: str = "type=docker"
    cache: str | None = None  # a registry, HOST/PREFIX, that keeps layers between machines


def target_name(cell: Cell) -> str:
    """The cell's id in the characters that bake allows."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", cell.id)


def layers_of(cell: Cell, project: Project, context: BuildContext) -> tuple[Layer, ...]:
    """The layers of a cell with their cache keys on this machine."""
    return keyed_layers(cell, project, context.inputs.get(cell.id, {}), context.locks.get(cell.id, {}))


def of_images(cells: Sequence[Cell], matrix: Matrix, context: BuildContext) -> dict[str, Any]:
    """One bake file that builds whole images, so that BuildKit sees what they share."""
    targets = {target_name(cell): _target(cell, matrix, context) for cell in cells}
    return {"group": {"default": {"targets": list(targets)}}, "target": targets}


def of_layers(
    cells: Sequence[Cell],
    missing: Sequence[Layer],
    matrix: Matrix,
    context: BuildContext,
    layout: Path | None,
    folder: Path,
) -> dict[str, Any]:
    """One bake file that builds the stage `image` of cells, and each missing layer as a file.

    Images go into the OCI layout `layout`, uncompressed, or without one into the engine, as `shell_tag`.
    Layers go into `folder`, each below its cache key.
    """
    targets: dict[str, dict[str, Any]] = {}
    for cell in cells:
        target = _target(cell, matrix, context) | {"target": "image"}
        if layout:
            target["output"] = [f"{LAYOUT},dest={layout}"]
            del target["tags"]
        else:
            target |= {"output": ["type=docker"], "tags": [shell_tag(cell)]}
        targets[target_name(cell)] = target
    for layer in missing:
        target = _target(layer.cell, matrix, context)
        del target["tags"], target["labels"]
        targets[layer_target(layer)] = {
            **target,
            "target": "layer-archive",
            "args": {**target["args"], "layer": layer.name, "SCRATCH": context.scratch},
            "output": [f"type=local,dest={folder / layer.cache_key}"],
            **(_layer_cache(context.cache, layer) if context.cache else {}),
        }
    return {"group": {"default": {"targets": list(targets)}}, "target": targets}


def shell_tag(cell: Cell) -> str:
    """The name of the stage `image` of a cell in an engine that cannot export it otherwise."""
    return f"hfdlc.local/shell:{target_name(cell)}"


def layer_target(layer: Layer) -> str:
    """The name of a layer's target."""
    return f"{layer.name}-{layer.cache_key}"


def chosen(public: Mapping[str, str], images: Mapping[str, Mapping[str, str]], cell: Cell) -> dict[str, str]:
    """The images that a cell starts from on this machine, by build argument."""
    here = {name: images.get(name, {}) for name in public}
    return {name: here[name].get(cell.id) or here[name].get(image, image) for name, image in public.items()}


def base_labels(base: str) -> dict[str, str]:
    """Labels that name the base image of a build. A bootstrapped base has no digest of a registry."""
    name, _, digest = base.partition("@")
    return {
        "io.hfdlc.base": base,
        render.BASE_NAME: name,
        **({render.BASE_DIGEST: digest} if digest else {}),
    }


def _target(cell: Cell, matrix: Matrix, context: BuildContext) -> dict[str, Any]:
    images = chosen(render.images(cell, matrix), context.images, cell)
    args = {
        **images,
        "SOURCE_DATE_EPOCH": str(render.EPOCH),
        **context.arguments,
    }
    if cell.id in context.has_local_wheels:
        args["framework_wheels"] = context.wheels
    other = context.dockerfiles.get(cell.id)
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
            **base_labels(args["base"]),
            **({inputs.LABEL: inputs.text(context.inputs[cell.id])} if cell.id in context.inputs else {}),
        },
        **({"platforms": [context.platform]} if context.platform else {}),
        "contexts": {
            **context.contexts,
            **{image: context.layouts[image] for image in images.values() if image in context.layouts},
        },
        "secret": [f"id={name},src={file}" for name, file in context.secrets.items()],
        "output": [context.output],
        **(_cache(context.cache, cell, matrix) if context.cache else {}),
    }


def _cache(registry: str, cell: Cell, matrix: Matrix) -> dict[str, Any]:
    """A registry cache of all stages; the caches of the release's other types are read too."""
    at = f"type=registry,ref={registry}/cache-{cell.framework}"
    kept = [f"{at}-{kind}:{cell.tag}" for kind in matrix.file.types]
    options = f"mode=max,ignore-error=true{_of_ecr(registry)}"
    return {"cache-from": kept, "cache-to": [f"{at}-{cell.type}:{cell.tag},{options}"]}


def _layer_cache(registry: str, layer: Layer) -> dict[str, Any]:
    """A registry cache of the packed layer alone: it is found without the stages that it was made in."""
    at = f"type=registry,ref={registry}/cache-layers:{layer.cache_key}"
    options = f"compression=uncompressed,ignore-error=true{_of_ecr(registry)}"
    return {"cache-from": [at], "cache-to": [f"{at},{options}"]}


def _of_ecr(registry: str) -> str:
    """Options for ECR, which stores no other caches: https://github.com/aws/containers-roadmap/issues/876."""
    return ",image-manifest=true,oci-mediatypes=true" if ECR.match(registry) else ""


def host_network(targets: Iterable[str]) -> dict[str, Any]:
    """A Compose file that gives targets the network of the machine: bake of buildx 0.13 reads it there."""
    return {"services": {name: {"build": {"context": ".", "network": "host"}} for name in targets}}
