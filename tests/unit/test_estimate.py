"""What a plan says of a build: layers, disk space, limits; and how cells are built in batches."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from docker.errors import ImageNotFound

from hfdlc.build import bases, estimate, freshness, history
from hfdlc.build.freshness import ImagesHere
from hfdlc.build.history import Build
from hfdlc.build.receipt import Receipt
from hfdlc.dockerfile import inputs, layers
from hfdlc.dockerfile.cache_keys import keyed_layers
from hfdlc.engine.detect import Engine
from hfdlc.engine.images import Layer
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.selector import Filter, select
from hfdlc.oci.store import ZSTD, LayerStore, StoredLayer
from hfdlc.project import Project
from hfdlc.state import State


@pytest.fixture
def folder(tmp_path: Path) -> State:
    """An empty state folder."""
    return State(tmp_path / "state")


class Images:
    """The images of an engine: labels by name."""

    def __init__(self, labels: Mapping[str, str], digests: tuple[str, ...] = ()) -> None:
        self._labels, self._digests = labels, digests

    def get(self, name: str) -> Any:
        """One image."""
        if name not in self._labels:
            raise ImageNotFound(name)
        attributes = {"RepoDigests": [], "Id": "1", "RootFS": {"Layers": ["sha256:1"]}}
        return SimpleNamespace(labels={inputs.LABEL: self._labels[name]}, attrs=attributes)

    def summaries(self, *, filters: Mapping[str, str]) -> list[Any]:
        """All of them, as `docker images` lists them."""
        return [
            {"RepoTags": [name], "Labels": {filters["label"]: label}} for name, label in self._labels.items()
        ]

    def list(self, *, filters: Mapping[str, str]) -> list[Any]:
        """One that has all layers."""
        return [SimpleNamespace(attrs={"RootFS": {"Layers": list(self._digests)}})]


def engine(labels: Mapping[str, str] = {}, digests: tuple[str, ...] = (), *, private: bool = True) -> Engine:
    images = Images(labels, digests)
    client = SimpleNamespace(images=images, api=SimpleNamespace(images=images.summaries))
    return cast("Engine", SimpleNamespace(client=client, private=private))


def pair(repository: Project) -> list[Cell]:
    return [
        c
        for c in repository.cells
        if c.framework_version == "2.13.0" and c.python == "3.11" and c.device == "cpu"
    ]


def store(cell: Cell, repository: Project, state: State, *, leave_out: str = "") -> None:
    """Put the layers of a cell into the layer store."""
    kept = LayerStore(state.folder("layers"))
    for layer in keyed_layers(cell, repository, ImagesHere(None).inputs(cell, repository)):
        if layer.name != leave_out:
            file = state.folder("tmp") / layer.cache_key
            file.write_bytes(b"x")
            kept._keep(
                file,
                StoredLayer(f"sha256:{layer.cache_key}", f"sha256:{layer.cache_key}", 1, ZSTD),
                layer.cache_key,
            )


def test_without_a_layer_store_every_layer_is_to_build(repository: Project, folder: State) -> None:
    cell = repository.default
    found = estimate.plan([cell], repository, None, folder)
    assert found.cells[0].state == "to build"
    assert found.cells[0].layers == [layer.name for layer in layers.layers(cell, repository.root)]
    size = cell.size * estimate.TYPICAL - estimate.BASE
    assert found.disk == pytest.approx(size * (1 + 4 * estimate.PACKED), rel=0.01)


def test_an_image_with_the_inputs_of_the_cell_is_up_to_date(repository: Project, folder: State) -> None:
    cell = repository.default
    label = inputs.text(inputs.of(cell, repository.root, {"base": "python@sha256:1"}))
    found = estimate.plan([cell], repository, engine({cell.id: label}), folder)
    assert (found.cells[0].state, found.layers, found.disk) == ("up to date", 0, 0)


def test_a_removed_image_is_to_build_although_its_layers_are_stored(
    repository: Project, folder: State
) -> None:
    cell = repository.default
    store(cell, repository, folder)
    found = estimate.plan([cell], repository, engine(), folder)
    assert (found.cells[0].state, found.cells[0].layers) == ("to build", [])


def test_a_changed_input_is_named_and_only_its_layer_is_to_build(repository: Project, folder: State) -> None:
    cell = repository.default
    store(cell, repository, folder, leave_out="inference-toolkit")
    now = inputs.of(cell, repository.root, {})
    found = estimate.plan(
        [cell], repository, engine({cell.id: inputs.text({**now, "toolkit": "other"})}), folder
    )
    assert found.cells[0].state == "to build"
    assert found.cells[0].changed == ["toolkit"]
    assert found.cells[0].layers == ["inference-toolkit"]


def test_a_base_that_the_engine_has_is_compared(repository: Project) -> None:
    cell = repository.default
    assert cell.bootstrap
    here = engine({bases.tag(cell.bootstrap): ""})
    now = ImagesHere(here).inputs(cell, repository)
    assert "base" in now
    other = inputs.text(inputs.of(cell, repository.root, {"base": "python@sha256:other"}))
    assert freshness.changed(other, now) == ["base", *(["installer_base"] if "installer_base" in now else [])]


@pytest.mark.parametrize("label", ["", "no JSON", "[1]", "{}"])
def test_an_image_without_a_readable_label_is_not_up_to_date(repository: Project, label: str) -> None:
    cell = repository.default
    assert not freshness.is_up_to_date(cell, inputs.of(cell, repository.root, {}), engine({cell.id: label}))


def test_a_layer_that_cells_share_counts_once(repository: Project, folder: State) -> None:
    both = estimate.plan(pair(repository), repository, None, folder)
    alone = [estimate.plan([cell], repository, None, folder) for cell in pair(repository)]
    assert both.shared > 0
    assert both.layers < sum(one.layers for one in alone)
    assert both.disk < sum(one.disk for one in alone)


def test_layers_that_the_engine_has_need_no_disk(repository: Project, folder: State) -> None:
    cell = repository.default
    store(cell, repository, folder)
    keys = [layer.cache_key for layer in keyed_layers(cell, repository, {})]
    loaded = estimate.Costs(repository, engine(digests=tuple(f"sha256:{key}" for key in keys)), folder)
    empty = estimate.Costs(repository, engine(), folder)
    for costs in (loaded, empty):
        costs.layers(cell, {})
    assert loaded.disk([cell]) == 0
    assert empty.disk([cell]) > 0


def test_an_incomplete_cell_says_so_and_costs_nothing(repository: Project, folder: State) -> None:
    (cell, *_) = [c for c in repository.cells if c.framework_version == "1.6.0"]
    found = estimate.plan([cell], repository, None, folder)
    assert (found.cells[0].state, found.disk) == ("incomplete", 0)


def test_sizes_come_from_the_last_build(repository: Project, folder: State) -> None:
    cell = repository.default
    for size in (1, 1000):
        built = {layer.name: size for layer in layers.layers(cell, repository.root)}
        history.add(Build(cell.id, "2026-11-29", 1.0, 9, built), folder)
    costs = estimate.Costs(repository, None, folder)
    costs.layers(cell, {})
    assert set(costs.sizes(cell).values()) == {1000}


def test_limits_are_named(repository: Project, folder: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "LAYERS", 3)
    cell = replace(repository.default, size=20_000_000_000)
    too_many, size = estimate.plan([cell], repository, None, folder).cells[0].breaks
    assert "layers, of 3" in too_many
    assert "SageMaker Serverless" in size


def costs_of(cells: list[Cell], repository: Project, state: State) -> estimate.Costs:
    costs = estimate.Costs(repository, None, state)
    for cell in cells:
        costs.layers(cell, {})
    return costs


def test_a_batch_has_the_largest_cell_and_those_that_share_with_it(
    repository: Project, folder: State
) -> None:
    cells = list(select(repository.cells, Filter(("*debian12",))))
    costs = costs_of(cells, repository, folder)
    gpu = [cell for cell in cells if cell.cuda]
    largest = max(gpu, key=lambda cell: costs.disk([cell], in_memory=False))
    mates = [cell for cell in gpu if cell.framework == largest.framework]
    room = int(costs.disk(mates, in_memory=False) * 1.01)
    chosen = estimate.batch(cells, room, costs)
    assert chosen[0].id == largest.id
    assert len(chosen) > 1
    assert len(chosen) < len(cells)
    assert estimate.disk(costs, chosen, 0) <= room


def test_a_cell_that_cannot_fit_does_not_keep_smaller_ones_out(repository: Project, folder: State) -> None:
    cells = pair(repository)
    costs = costs_of(cells, repository, folder)
    (small,) = [cell for cell in cells if cell.type == "inference"]
    room = estimate.disk(costs, [small], 0)
    assert estimate.batch(cells, room, costs) == [small]
    assert estimate.batch(cells, room - 1, costs) == []


def test_without_a_known_disk_all_cells_are_one_batch(repository: Project, folder: State) -> None:
    cells = pair(repository)
    assert estimate.batch(cells, None, costs_of(cells, repository, folder)) == cells
    assert estimate.free(folder, engine(private=False)) is None


@pytest.mark.parametrize("line", ["", "{", "[]", '{"cell": 1}', "\x00", '{"version": 9}'])
def test_a_damaged_line_of_the_history_is_left_out(folder: State, line: str) -> None:
    build = Build("one:1", "2026-11-29", 1.5, 7, {"framework": 7})
    history.add(build, folder)
    with (folder.root / history.FILE).open("a") as file:
        file.write(f"{line}\n")
    history.add(build, folder)
    assert history.read(folder) == [build, build]


def test_a_receipt_counts_shared_layers_once(repository: Project) -> None:
    base, one, two = Layer("sha256:b", 100), Layer("sha256:1", 10), Layer("sha256:2", 1)
    receipt = Receipt()
    receipt.weigh({"a": [base, one], "b": [base, two]}, before={"sha256:b"})
    assert (receipt.alone, receipt.unique, receipt.written) == (211, 111, 11)
