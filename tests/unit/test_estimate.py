"""What a plan tells, from what builds left."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from hfdlc.build import estimate, records
from hfdlc.build.receipt import Receipt
from hfdlc.build.records import Record
from hfdlc.dockerfile import cache_keys, inputs, layers
from hfdlc.engine.images import Layer
from hfdlc.errors import HfdlcError
from hfdlc.matrix.cells import Cell
from hfdlc.project import Project
from hfdlc.state import State

if TYPE_CHECKING:
    from hfdlc.engine.detect import Engine

PRIVATE = cast("Engine", SimpleNamespace(private=True))
ANOTHER = cast("Engine", SimpleNamespace(private=False))


@pytest.fixture
def folder(tmp_path: Path) -> State:
    """An empty state folder."""
    return State(tmp_path / "state")


def built(cell: Cell, repository: Project, state: State, size: int = 1000) -> Record:
    """Leave what a build of the cell leaves; every layer has the same size."""
    made_from = inputs.of(cell, repository.root, {"base": "python@sha256:1"})
    keys = [layer.cache_key for layer in cache_keys.keyed_layers(cell, repository, made_from)]
    record = Record(
        cell=cell.id,
        image="sha256:1",
        date="2026-11-23",
        inputs=made_from,
        layers=dict.fromkeys(keys, size),
        below=500,
    )
    records.keep(cell, record, state)
    return record


def test_without_any_build_all_is_new_and_a_guess(repository: Project, folder: State) -> None:
    """The budget of the matrix stands for what nobody has seen."""
    cell = repository.default
    told = estimate.forecast([cell], repository, folder)
    assert told.cells[0].state == "to build"
    assert told.rate_from == 0
    assert told.write == pytest.approx(cell.size - estimate.BASE, rel=0.01)
    assert told.disk == int(told.write * estimate.ON_DISK)
    assert told.layers == len(layers.layers(cell))


def test_what_was_built_is_up_to_date_and_costs_nothing(repository: Project, folder: State) -> None:
    """As long as nothing has changed since."""
    cell = repository.default
    built(cell, repository, folder)
    told = estimate.forecast([cell], repository, folder)
    assert told.cells[0].state == "up to date"
    assert (told.layers, told.write, told.disk, told.seconds) == (0, 0, 0, 0)


def test_a_change_is_named_and_only_its_layer_is_new(repository: Project, folder: State) -> None:
    """The layers that stay the same are not written again."""
    cell = repository.default
    record = built(cell, repository, folder)
    toolkit = list(record.layers)[-1]
    kept = {"other" if key == toolkit else key: 1000 for key in record.layers}
    changed = record.model_copy(update={"layers": kept, "inputs": {**record.inputs, "toolkit": "other"}})
    records.keep(cell, changed, folder)
    told = estimate.forecast([cell], repository, folder)
    assert told.cells[0].state == "to build"
    assert told.cells[0].changed == ["toolkit"]
    assert told.layers == 1


def test_what_cells_share_counts_once(repository: Project, folder: State) -> None:
    """Two types of a release need less than twice the bytes."""
    pair = [c for c in repository.cells if c.framework_version == "2.13.0" and c.device == "cpu"]
    both = estimate.forecast(pair, repository, folder)
    alone = [estimate.forecast([cell], repository, folder) for cell in pair]
    assert both.shared > 0
    assert both.layers < sum(one.layers for one in alone)
    assert both.write < sum(one.write for one in alone)


def test_a_cell_that_cannot_be_built_says_why(repository: Project, folder: State) -> None:
    """Its lock is incomplete; it costs nothing."""
    (cell, *_) = [c for c in repository.cells if c.framework_version == "1.6.0"]
    told = estimate.forecast([cell], repository, folder)
    assert (told.cells[0].state, told.write) == ("incomplete", 0)


def test_the_rate_comes_from_runs_that_wrote_something(repository: Project, folder: State) -> None:
    """A run that wrote next to nothing, and a file that is no receipt, tell nothing."""
    for name, receipt in {
        "1": {"written": 1_000_000_000, "seconds": 10.0},
        "2": {"written": 1000, "seconds": 2.0},
        "3": [],
    }.items():
        file = folder.folder("receipts") / f"{name}.json"
        file.write_text(json.dumps(receipt))
    told = estimate.forecast([repository.default], repository, folder)
    assert told.rate_from == 1
    assert told.seconds == pytest.approx(told.write / 1e8 + 2, abs=1)


def test_limits_are_named(repository: Project, folder: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """More layers than the budget, and more bytes than Serverless takes."""
    monkeypatch.setattr(estimate, "LAYERS", 3)
    cell = replace(repository.default, size=11_000_000_000)
    told = estimate.forecast([cell], repository, folder)
    too_many, size = told.cells[0].breaks
    assert "layers, of 3" in too_many
    assert "SageMaker Serverless" in size


def test_what_cannot_fit_is_refused_and_what_fits_is_named(
    repository: Project, folder: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that is too large does not keep a smaller one out."""
    pair = [c for c in repository.cells if c.framework_version == "2.13.0" and c.device == "cpu"]
    (small,) = [c for c in pair if c.type == "inference"]
    room = estimate.forecast([small], repository, folder).disk + 1
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=room))
    with pytest.raises(HfdlcError, match="2 cells need about") as refused:
        estimate.refuse_what_cannot_fit(pair, repository, PRIVATE, folder)
    assert f"build what fits: hfdlc build {small.id}" in str(refused.value)
    estimate.refuse_what_cannot_fit([small], repository, PRIVATE, folder)
    estimate.refuse_what_cannot_fit(pair, repository, ANOTHER, folder)  # its disk is not known


@pytest.mark.parametrize("content", ["", "{", '{"cell": 1}', '{"version": 9}', "\x00"])
def test_a_damaged_record_is_set_aside_and_said(
    repository: Project, folder: State, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is kept for who wants to look, and the cell counts as never built."""
    cell = repository.default
    built(cell, repository, folder)
    (file,) = (folder.root / "builds").iterdir()
    file.write_text(content)
    assert estimate.forecast([cell], repository, folder).cells[0].state == "to build"
    assert "set aside" in capsys.readouterr().err
    assert [left.suffix for left in (folder.root / "builds").iterdir()] == [".set-aside"]


def test_a_receipt_counts_shared_layers_once(repository: Project) -> None:
    """Alone, together, and what the engine did not have."""
    base, one, two = Layer("sha256:b", 100), Layer("sha256:1", 10), Layer("sha256:2", 1)
    receipt = Receipt()
    receipt.weigh({"a": [base, one], "b": [base, two]}, before={"sha256:b"})
    assert (receipt.alone, receipt.unique, receipt.written) == (211, 111, 11)
