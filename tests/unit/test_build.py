"""What a build does before it needs an engine, and what it reports at its end."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from docker.errors import ImageNotFound

from hfdlc.build import builder, freshness
from hfdlc.build.session import Session
from hfdlc.dockerfile import inputs, render
from hfdlc.errors import HfdlcError
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.project import Project
from parts import write_project

if TYPE_CHECKING:
    from hfdlc.engine.detect import Engine


@pytest.fixture
def project(repository: Project, tmp_path: Path) -> Project:
    """A project with locks and Dockerfiles, all of them current."""
    made = write_project(tmp_path / "project")
    for part in ("templates", "image"):
        shutil.copytree(repository.root / part, made.root / part)
    file = lockfile.installer_file("3.11")
    installer = {file: lockfile.text(lockfile.entries("uv==1 \\\n    --hash=sha256:00"))}
    lockfile.write(installer, lockfile.installer_input(made.matrix, "3.11"), made.root)
    for cell in made.cells:
        (made.root / cell.folder / "Dockerfile").write_text(render.dockerfile(cell, made))
    return made


@pytest.fixture
def session(project: Project, tmp_path: Path) -> Session:
    """A session that finds no engine and cannot start one."""
    state = tmp_path / ("s" * 80)
    return Session(project, {"HFDLC_STATE": str(state), "DOCKER_HOST": "unix:///nowhere.sock"})


def edit(cell: Cell, project: Project) -> None:
    """Edit the cell's Dockerfile by hand."""
    with (project.root / cell.folder / "Dockerfile").open("a") as file:
        file.write("USER nobody\n")


def make_incomplete(cell: Cell, project: Project) -> None:
    """Let the cell's lock lack a package."""
    paths = [lockfile.group_file(cell, group) for group in cell.groups]
    files = {path: (project.root / path).read_text() for path in paths}
    lockfile.write(files, lockfile.lock_input(cell), project.root, missing="torch==1 from https://a.example/")


def test_check_current_accepts_current_locks_and_dockerfiles(project: Project) -> None:
    for cell in project.cells:
        builder.check_current(cell, project)


def test_check_current_reports_an_edited_dockerfile(project: Project) -> None:
    """With the command that writes it again."""
    cell = project.default
    edit(cell, project)
    with pytest.raises(HfdlcError) as caught:
        builder.check_current(cell, project)
    assert str(caught.value).startswith(f"{cell.folder}/Dockerfile: ")
    assert str(caught.value).endswith(": hfdlc render")


def test_check_current_reports_a_missing_dockerfile(project: Project) -> None:
    (project.root / project.default.folder / "Dockerfile").unlink()
    with pytest.raises(HfdlcError) as caught:
        builder.check_current(project.default, project)
    assert str(caught.value).endswith(": hfdlc render")


def test_check_current_reports_an_edited_lock(project: Project) -> None:
    cell = project.default
    with (project.root / lockfile.group_file(cell, "framework")).open("a") as file:
        file.write("torch==1\n")
    with pytest.raises(HfdlcError) as caught:
        builder.check_current(cell, project)
    assert str(caught.value).startswith(f"{lockfile.group_file(cell, 'framework')}: ")
    assert str(caught.value).endswith(f": hfdlc lock {cell.id}")


def test_build_names_every_cell_that_failed(
    session: Session, project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All problems are in the error, the command repeats these cells, and the receipt has them."""
    for cell in project.cells:
        edit(cell, project)
    receipt = tmp_path / "receipt.json"
    with pytest.raises(builder.CellsFailed) as caught:
        builder.build(session, project.cells, receipt)
    ids = [cell.id for cell in project.cells]
    assert caught.value.fine == ()
    assert str(caught.value).endswith(f": hfdlc build {' '.join(ids)}")
    assert all(f"{cell.folder}/Dockerfile" in str(caught.value) for cell in project.cells)
    assert json.loads(receipt.read_text())["cells"] == dict.fromkeys(ids, "failed")
    assert [line.split() for line in capsys.readouterr().err.splitlines()] == [["failed", id_] for id_ in ids]


def test_build_skips_incomplete_cells_among_others(
    session: Session, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """The package that the lock lacks is named; with `strict` such a cell fails."""
    first, second = project.cells[:2]
    make_incomplete(first, project)
    edit(second, project)
    with pytest.raises(builder.CellsFailed, match="1 of 2 cells failed") as caught:
        builder.build(session, [first, second])
    assert str(caught.value).endswith(f": hfdlc build {second.id}")
    assert (
        f"skipped     {first.id} (its lock lacks torch==1 from https://a.example/)" in capsys.readouterr().err
    )
    with pytest.raises(builder.CellsFailed, match="2 of 2 cells failed"):
        builder.build(session, [first, second], strict=True)


def test_build_of_an_incomplete_cell_alone_fails(session: Session, project: Project) -> None:
    make_incomplete(project.default, project)
    with pytest.raises(HfdlcError, match=r"incomplete: torch==1 from https://a\.example/"):
        builder.build(session, [project.default])


class Images:
    """The images of an engine: the labels of each by its name."""

    def __init__(self, labels: dict[str, dict[str, str]]) -> None:
        self._labels = labels

    def get(self, name: str) -> Any:
        """As docker-py does it."""
        if name not in self._labels:
            raise ImageNotFound(name)
        return SimpleNamespace(labels=self._labels[name])


def with_images(session: Session, labels: dict[str, dict[str, str]]) -> Session:
    """The session, with an engine that has these images."""
    engine = SimpleNamespace(client=SimpleNamespace(images=Images(labels)))
    session.__dict__["engine"] = cast("Engine", engine)
    return session


def test_built_from_reads_the_labels_of_images(session: Session, project: Project) -> None:
    """None for a cell that is not built, nothing for an image without the label."""
    first, second, third = project.cells[:3]
    image_inputs = {"Dockerfile": "abc"}
    with_images(session, {first.id: {inputs.LABEL: inputs.text(image_inputs)}, second.id: {}})
    found = builder.built_from(session, [first, second, third])
    assert found == {first.id: image_inputs, second.id: {}, third.id: None}


def test_image_is_up_to_date_if_its_label_has_the_inputs_of_now(session: Session, project: Project) -> None:
    """A removed image is not."""
    cell, removed = project.cells[:2]
    now = {"Dockerfile": "abc", "base": "a@sha256:1"}
    engine = with_images(session, {cell.id: {inputs.LABEL: inputs.text(now)}}).engine
    assert freshness.is_up_to_date(cell, now, engine)
    assert not freshness.is_up_to_date(cell, {**now, "base": "a@sha256:2"}, engine)
    assert not freshness.is_up_to_date(removed, now, engine)
