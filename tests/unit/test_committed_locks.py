"""What is derived is current, whole. `pytest tests/golden --refresh` writes it anew."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hfdlc import project
from hfdlc.build import bake
from hfdlc.dockerfile import render
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell

ROOT = Path(__file__).parents[2]
PROJECT = project.find(ROOT)
each_cell = pytest.mark.parametrize("cell", PROJECT.cells, ids=lambda cell: cell.id)


@pytest.fixture
def refresh(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--refresh"))


def compare(file: Path, text: str, refresh: bool) -> None:
    if refresh:
        file.write_text(text)
    assert file.read_text() == text


@each_cell
def test_the_committed_dockerfile_is_what_is_rendered(cell: Cell, refresh: bool) -> None:
    """Nobody edited it, and nobody forgot `hfdlc render`."""
    text = render.dockerfile(cell, PROJECT)
    compare(ROOT / cell.folder / "Dockerfile", text, refresh)


# What could not be locked where its source was out of reach; every other cell has a whole lock.
AWS = "torch==1.6.0 from 763104351884.dkr.ecr."
PAGE = "from https://download.pytorch.org/whl/torch_stable.html"
OUT_OF_REACH = {
    "pytorch-training:1.6.0-transformers4.4.2-gpu-py36-cu110-ubuntu18.04": AWS,
    "pytorch-training:1.6.0-transformers4.5.0-gpu-py36-cu110-ubuntu18.04": AWS,
    "pytorch-training:1.6.0-transformers4.6.1-gpu-py36-cu110-ubuntu18.04": AWS,
    "pytorch-training:1.7.1-transformers4.6.1-gpu-py36-cu110-ubuntu18.04": f"torch==1.7.1+cu110 {PAGE}",
    "pytorch-inference:1.7.1-transformers4.6.1-cpu-py36-ubuntu18.04": f"torch==1.7.1+cpu {PAGE}",
    "pytorch-inference:1.7.1-transformers4.6.1-gpu-py36-cu110-ubuntu18.04": f"torch==1.7.1+cu110 {PAGE}",
}


def out_of_reach(cell: Cell) -> str | None:
    """What is known to be missing in the cell's lock."""
    return OUT_OF_REACH.get(cell.id.removeprefix("huggingface-"))


@each_cell
def test_a_large_layer_has_no_small_packages(cell: Cell) -> None:
    """What a framework needs moves more often than it does, and would take its layer along."""
    own = {lockfile.name_of(text) for text in cell.framework_requirements()}
    assert {entry.name for entry in lockfile.read(cell, ROOT)["framework"]} <= own


@each_cell
def test_the_committed_locks_belong_to_the_matrix(cell: Cell) -> None:
    """Nobody edited them, and nobody forgot `hfdlc lock`; what is missing is known by name."""
    known = out_of_reach(cell)
    assert lockfile.state(cell, ROOT) == ("incomplete" if known else "locked")
    missing = lockfile.missing(cell, ROOT)
    assert missing is None if known is None else str(missing).startswith(known)


@each_cell
def test_the_lock_holds_what_the_tag_says(cell: Cell) -> None:
    """The framework and transformers are locked in the tag's versions; a cpu cell holds no CUDA."""
    locked = {
        entry.name: entry.version for entries in lockfile.read(cell, ROOT).values() for entry in entries
    }
    assert locked["transformers"] == cell.transformers_version
    name = lockfile.name_of(cell.framework_requirements()[0])
    if not out_of_reach(cell):
        assert locked[name].partition("+")[0] == cell.framework_version
    else:
        assert name not in locked, "a build of another CUDA would be a lie"
    if cell.type == "training":
        assert locked["datasets"] == cell.datasets_version
    if cell.device == "cpu":
        assert not [name for name in locked if name.startswith("nvidia")]


def test_types_of_a_release_share_layers() -> None:
    """Training and inference of a release on one device lock the same framework and libraries."""
    shared: dict[tuple[str | None, ...], list[tuple[lockfile.Entry, ...]]] = {}
    for cell in PROJECT.cells:
        locked = lockfile.read(cell, ROOT)
        release = (cell.framework, cell.framework_version, cell.transformers_version, cell.cuda)
        groups = [locked[group] for group in ("framework", "libraries", "transformers")]
        assert shared.setdefault(release, groups) == groups, cell.id


def test_the_bake_file_of_a_cell(refresh: bool) -> None:
    """On a machine with a base, wheels and an index of its own."""
    cell = PROJECT.default
    context = bake.BuildContext(
        images={"base": {cell.base_image(): "hfdlc.local/base:1"}},
        secrets={"uv.toml": "/access/uv.toml"},
        contexts={"wheels": "/access/wheels"},
        has_local_wheels=frozenset([cell.id]),
    )
    # A cache key is a digest of much that a bake file does not show.
    layers = [
        replace(layer, cache_key=f"key{number}")
        for number, layer in enumerate(bake.layers_of(cell, PROJECT, context))
    ]
    folders = Path("/state/layers"), Path("/state/tmp")
    file = bake.of_layers([cell], layers, PROJECT.matrix, context, *folders)
    compare(Path(__file__).with_name("bake.json"), json.dumps(file, indent=2) + "\n", refresh)
