"""The bake file: what is added to the Dockerfiles, and where the results go."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hfdlc.build import bake
from hfdlc.build.bake import BuildContext
from hfdlc.matrix.cells import Cell
from hfdlc.project import Project

LAYOUT, FOLDER = Path("/state/layers"), Path("/state/tmp")


@pytest.fixture
def cell(repository: Project) -> Cell:
    """The default cell."""
    return repository.default


@pytest.fixture
def context(cell: Cell) -> BuildContext:
    """Of a machine with a base, wheels and an index of its own."""
    return BuildContext(
        images={"base": {cell.base_image(): "hfdlc.local/base:1"}},
        secrets={"uv.toml": "/access/uv.toml"},
        contexts={"wheels": "/access/wheels"},
        has_local_wheels=frozenset([cell.id]),
        inputs={cell.id: {"Dockerfile": "abc"}},
        cache="registry.example/cache",
    )


def test_layers_are_exported_below_their_cache_keys(
    cell: Cell, repository: Project, context: BuildContext
) -> None:
    """Each missing layer is one target; the image itself goes into the layer store, without a tag."""
    layers = bake.layers_of(cell, repository, context)
    file = bake.of_layers([cell], layers[:2], repository.matrix, context, LAYOUT, FOLDER)
    image = file["target"][bake.target_name(cell)]
    assert (image["target"], image["output"]) == ("image", [f"{bake.LAYOUT},dest={LAYOUT}"])
    assert "tags" not in image
    assert [*file["target"]] == file["group"]["default"]["targets"]
    for layer in layers[:2]:
        target = file["target"][f"{layer.name}-{layer.cache_key}"]
        assert (target["target"], target["args"]["layer"]) == ("layer-archive", layer.name)
        assert target["output"] == [f"type=local,dest={FOLDER}/{layer.cache_key}"]
        assert target["cache-from"] == [
            f"type=registry,ref=registry.example/cache/cache-layers:{layer.cache_key}"
        ]


def test_every_target_gets_the_base_the_secrets_and_the_wheels_of_the_machine(
    cell: Cell, repository: Project, context: BuildContext
) -> None:
    """The labels name the base that replaces the public one."""
    layers = bake.layers_of(cell, repository, context)
    file = bake.of_layers([cell], layers, repository.matrix, context, LAYOUT, FOLDER)
    assert len(file["target"]) == len(layers) + 1
    for target in file["target"].values():
        assert target["args"]["base"] == "hfdlc.local/base:1"
        assert target["args"]["framework_wheels"] == "/wheels"
        assert target["contexts"] == {"wheels": "/access/wheels"}
        assert target["secret"] == ["id=uv.toml,src=/access/uv.toml"]
        assert "platforms" not in target
    labels = file["target"][bake.target_name(cell)]["labels"]
    assert labels["io.hfdlc.base"] == "hfdlc.local/base:1"
    assert labels["io.hfdlc.inputs"]


def test_builder_without_images_of_the_engine_gets_bases_as_layouts(
    cell: Cell, repository: Project, context: BuildContext
) -> None:
    """Each target gets those that it uses, beside its other contexts, and one platform."""
    here = "oci-layout:///state/layers@sha256:1"
    layouts = {"hfdlc.local/base:1": here, "hfdlc.local/base:2": "oci-layout:///state/layers@sha256:2"}
    context = replace(context, layouts=layouts, platform="linux/amd64")
    layers = bake.layers_of(cell, repository, context)
    file = bake.of_layers([cell], layers, repository.matrix, context, LAYOUT, FOLDER)
    for target in file["target"].values():
        assert target["contexts"] == {"wheels": "/access/wheels", "hfdlc.local/base:1": here}
        assert target["platforms"] == ["linux/amd64"]


@pytest.mark.parametrize(
    ("registry", "is_ecr"),
    [("registry.example/cache", False), ("123456789012.dkr.ecr.eu-west-1.amazonaws.com/cache", True)],
)
def test_caches_of_ecr_are_image_manifests(
    cell: Cell, repository: Project, context: BuildContext, registry: str, *, is_ecr: bool
) -> None:
    """ECR refuses other caches."""
    context = replace(context, cache=registry)
    layers = bake.layers_of(cell, repository, context)[:1]
    files = [
        bake.of_images([cell], repository.matrix, context),
        bake.of_layers([], layers, repository.matrix, context, FOLDER, FOLDER),
    ]
    for file in files:
        for target in file["target"].values():
            (written,) = target["cache-to"]
            assert written.endswith(",image-manifest=true,oci-mediatypes=true") == is_ecr


def test_whole_images_are_tagged_and_cached_by_cell(
    cell: Cell, repository: Project, context: BuildContext
) -> None:
    """A cell reads the caches of the other types of its release, and writes its own."""
    target: dict[str, Any] = bake.of_images([cell], repository.matrix, context)["target"][
        bake.target_name(cell)
    ]
    assert (target["tags"], target["output"]) == ([cell.id], [context.output])
    (written,) = target["cache-to"]
    assert written.startswith(f"type=registry,ref=registry.example/cache/cache-pytorch-inference:{cell.tag},")
    assert any("cache-pytorch-training:" in cache for cache in target["cache-from"])


def test_dockerfile_of_the_context_replaces_that_of_the_repository(cell: Cell, repository: Project) -> None:
    """Variables are escaped, because bake has its own."""
    context = BuildContext(dockerfiles={cell.id: "FROM ${base}"})
    (target,) = bake.of_images([cell], repository.matrix, context)["target"].values()
    assert target["dockerfile-inline"] == "FROM $${base}"
    assert "dockerfile" not in target
