"""What is derived is current, whole. `pytest tests/golden --refresh` writes it anew."""

import json
from pathlib import Path

import pytest

from hfdlc import lock, plan, project, render
from hfdlc.cells import Cell

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
    text = render.dockerfile(cell, PROJECT.matrix, PROJECT.templates)
    compare(ROOT / cell.folder / "Dockerfile", text, refresh)


@each_cell
def test_the_committed_locks_belong_to_the_matrix(cell: Cell) -> None:
    """Nobody edited them, and nobody forgot `hfdlc lock`."""
    lock.check(cell, PROJECT.matrix, ROOT)


@each_cell
def test_the_lock_holds_what_the_tag_says(cell: Cell) -> None:
    """The framework and transformers are locked in the tag's versions; a cpu cell holds no CUDA."""
    locked = {entry.name: entry.version for entries in lock.read(cell, ROOT).values() for entry in entries}
    assert locked["transformers"] == cell.transformers_version
    name = lock.name_of(cell.framework_requirements()[0])
    assert locked[name].partition("+")[0] == cell.framework_version
    if cell.device == "cpu":
        assert not [name for name in locked if name.startswith("nvidia")]
    if (cell.framework, cell.device) == ("pytorch", "cpu"):
        assert locked["torch"].endswith("+cpu")


def test_the_plan_of_all_cells(refresh: bool) -> None:
    """The bake file on a machine with a private engine and wheels of its own."""
    machine = plan.Machine(
        images={"base": {PROJECT.default.base_image(): "hfdlc.local/base:1"}},
        secrets={"uv.toml": "/access/uv.toml"},
        contexts={"wheels": "/access/wheels"},
        brought=frozenset(cell.source.page for cell in PROJECT.cells if cell.source.page),
    )
    bake = plan.bake(PROJECT.cells, PROJECT.matrix, machine)
    compare(Path(__file__).with_name("plan.json"), json.dumps(bake, indent=2) + "\n", refresh)
