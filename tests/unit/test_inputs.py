"""The inputs of an image: what changes them, and what does not."""

from pathlib import Path

import pytest

from hfdlc.dockerfile import inputs
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.project import Project
from matrices import copy_parts

IMAGES = {"base": "python:3.11@sha256:1", "installer_base": "python:3.11@sha256:2"}


@pytest.fixture
def root(repository: Project, tmp_path: Path) -> Path:
    """A copy of what the images are made from, that a test may change."""
    copy_parts(repository.root, tmp_path, "image", "images", "toolkit")
    return tmp_path


def append(file: Path, text: str) -> None:
    """Add a line to a file."""
    file.write_text(file.read_text() + text + "\n")


def changed_by(cell: Cell, root: Path, file: str, text: str) -> list[str]:
    """The inputs that a new line in a file changes."""
    before = inputs.of(cell, root, IMAGES)
    inputs.toolkit.cache_clear()
    append(root / file, text)
    return inputs.changed(before, inputs.of(cell, root, IMAGES))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("{cell.folder}/Dockerfile", "Dockerfile"),
        ("{cell.folder}/type-libraries.lock", "type-libraries.lock"),
        ("images/installer/py311/installer.lock", "installer.lock"),
        ("toolkit/src/hf_inference_toolkit/http/app.py", "toolkit"),
        ("toolkit/pyproject.toml", "toolkit"),
        ("image/finish.py", "finish"),
    ],
)
def test_changed_input_is_named(repository: Project, root: Path, file: str, name: str) -> None:
    """Each file changes the one input that it is."""
    cell = repository.default
    assert changed_by(cell, root, file.format(cell=cell), "new==1.0") == [name]


def test_files_of_dockerignore_do_not_change_inputs(repository: Project, root: Path) -> None:
    """Tests of the toolkit, byte code, and what is kept of a lock's question."""
    cell = repository.default
    before = inputs.of(cell, root, IMAGES)
    inputs.toolkit.cache_clear()
    (root / "toolkit" / "tests").mkdir()
    (root / "toolkit" / "tests" / "test_new.py").write_text("new")
    (root / cell.folder / lockfile.RECORD).write_text("{}")
    assert inputs.of(cell, root, IMAGES) == before


def test_the_toolkit_is_what_docker_reads(repository: Project) -> None:
    """The parts that count are those that .dockerignore lets through."""
    lines = (repository.root / ".dockerignore").read_text().split()
    assert {f"!toolkit/{part}" for part in inputs.TOOLKIT} == {
        line for line in lines if line.startswith("!toolkit/")
    }


def test_a_base_with_another_digest_is_another_image(repository: Project) -> None:
    """The name of the base may stay the same."""
    cell, other = repository.default, IMAGES | {"base": "python:3.11@sha256:9"}
    before, after = (inputs.of(cell, repository.root, images) for images in (IMAGES, other))
    assert inputs.changed(before, after) == ["base"]
    assert inputs.digest(before) != inputs.digest(after)
    assert inputs.digest(after) == inputs.digest(dict(reversed(after.items())))


@pytest.mark.parametrize("label", [None, "", "no JSON", "[1]", "{}"])
def test_unreadable_label_is_never_up_to_date(repository: Project, label: str | None) -> None:
    """An image without the label, or with a damaged one, is never taken for the cell's."""
    assert inputs.read(label) != inputs.of(repository.default, repository.root, IMAGES)


def test_label_is_read_as_it_was_written(repository: Project) -> None:
    """There and back."""
    made_from = inputs.of(repository.default, repository.root, IMAGES)
    assert inputs.read(inputs.text(made_from)) == made_from
