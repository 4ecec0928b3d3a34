"""Building many cells: what is skipped, what fits the disk, and what is refused."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hfdlc.build import builder, estimate
from hfdlc.build.bake import BuildContext
from hfdlc.build.overrides import Overrides
from hfdlc.build.receipt import Receipt
from hfdlc.engine import detect
from hfdlc.errors import HfdlcError
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.selector import Filter, select
from hfdlc.project import Project
from hfdlc.state import State

if TYPE_CHECKING:
    from hfdlc.build.prepare import Failures

GB = 10**9


@pytest.fixture
def session(repository: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A session on an engine without images."""
    monkeypatch.setattr(detect, "prune", lambda *_: 0)
    client = SimpleNamespace(images=SimpleNamespace(list=lambda **_: []), info=lambda: {"MemTotal": 64 * GB})
    return SimpleNamespace(
        project=repository,
        state=State(tmp_path),
        engine=SimpleNamespace(client=client, private=True),
        builder=SimpleNamespace(name=""),
        overrides=Overrides(),
        environ={},
    )


def cells(repository: Project, *patterns: str) -> list[Cell]:
    return list(select(repository.cells, Filter(patterns)))


def context(chosen: list[Cell]) -> BuildContext:
    return BuildContext(inputs={cell.id: {} for cell in chosen})


def test_incomplete_cells_are_skipped_beside_others(session: Any, repository: Project) -> None:
    incomplete, complete = cells(repository, "*:1.6.0-*"), cells(repository, "*:2.13.0-*-cpu-py311-*")
    assert builder._incomplete(session, [*complete, *incomplete]) == incomplete
    assert builder._incomplete(session, incomplete) == []


def test_a_cell_whose_missing_lock_file_is_replaced_is_not_skipped(session: Any, repository: Project) -> None:
    first, *others = cells(repository, "*:1.6.0-*", "*:2.13.0-*-cpu-py311-*")
    (incomplete,) = [cell for cell in (first, *others) if cell.framework_version == "1.6.0"][:1]
    session.overrides = Overrides(locks={incomplete.id: {"framework": "other.lock"}})
    assert incomplete not in builder._incomplete(session, [first, *others])


@pytest.mark.parametrize("room", [5 * GB, 9 * GB, 500 * GB])
def test_a_batch_fits_the_disk(
    session: Any, repository: Project, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(estimate, "free", lambda *_: room)
    todo = cells(repository, "*debian12")
    failures: Failures = {}
    batch = builder._fitting(session, todo, context(todo), failures)
    assert batch
    assert failures == {}
    costs = estimate.Costs(repository, None, session.state)
    for cell in todo:
        costs.layers(cell, {})
    assert estimate.disk(costs, batch, 64 * GB) <= room
    assert (len(batch) == len(todo)) == (room == 500 * GB)


def test_a_cell_that_cannot_fit_is_refused_with_the_way_out(
    session: Any, repository: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "free", lambda *_: GB)
    todo = cells(repository, "*:2.13.0-*-cpu-py311-*")
    failures: Failures = {}
    assert builder._fitting(session, todo, context(todo), failures) == []
    assert set(failures) == {cell.id for cell in todo}
    message = str(failures[todo[0].id])
    assert f"building {todo[0].id} needs about" in message
    assert "1 GB are free" in message
    assert "--no-disk-check" in message


def test_the_build_cache_is_dropped_before_a_cell_is_refused(
    session: Any, repository: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [GB, 500 * GB]
    monkeypatch.setattr(estimate, "free", lambda *_: room.pop(0))
    monkeypatch.setattr(detect, "prune", lambda *_: 499 * GB)
    todo = cells(repository, "*:2.13.0-*-cpu-py311-*")
    batch = builder._fitting(session, todo, context(todo), {})
    assert {cell.id for cell in batch} == {cell.id for cell in todo}


def test_a_dockerfile_that_is_not_current_is_refused(repository: Project, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(repository.root / "images")
    (tmp_path / "templates").mkdir()
    for file in (repository.root / "templates").rglob("*.j2"):
        target = tmp_path / "templates" / file.relative_to(repository.root / "templates")
        target.parent.mkdir(exist_ok=True)
        target.write_text(file.read_text().replace("EXPOSE 8080", "EXPOSE 9090"))
    with pytest.raises(HfdlcError, match=r"Dockerfile: does not match the matrix and the templates"):
        builder.check_current(repository.default, replace(repository, root=tmp_path))


@pytest.mark.parametrize(("room", "times"), [(GB, 1), (500 * GB, 0), (None, 0)])
def test_the_build_cache_is_dropped_before_images_that_do_not_fit_beside_it(
    session: Any, repository: Project, monkeypatch: pytest.MonkeyPatch, room: int | None, times: int
) -> None:
    pruned: list[object] = []
    monkeypatch.setattr(estimate, "free", lambda *_: room)
    monkeypatch.setattr(detect, "prune", lambda *words: pruned.append(words))
    todo = cells(repository, "*:2.13.0-*-cpu-py311-*")
    builder._make_room(session, todo, context(todo))
    assert len(pruned) == times


def test_images_that_the_engine_cannot_load_fail_their_own_batch(
    session: Any, repository: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(_: object, cells: list[Cell], __: object) -> Any:
        if cells[0] is first:
            raise HfdlcError("the engine could not load it")
        return None, 0

    first, second = cells(repository, "*:2.13.0-*-cpu-py311-*")
    monkeypatch.setattr(builder, "_built", built)
    monkeypatch.setattr(builder, "_remember", lambda *_: None)
    monkeypatch.setattr(builder, "_fitting", lambda _, todo, *__: todo[:1])
    failures: Failures = {}
    todo = [first, second]
    builder._batches(session, todo, context(todo), Receipt(), failures, disk_check=True)
    assert list(failures) == [first.id]
