"""What an image is made from: what changes it, and what does not."""

import shutil
from pathlib import Path

import pytest

from hfdlc.build import bake
from hfdlc.build.bake import Machine
from hfdlc.dockerfile import inputs, layers
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.selector import Filter, select
from hfdlc.project import Project

IMAGES = {"base": "python:3.11@sha256:1", "installer_base": "python:3.11@sha256:2"}


@pytest.fixture
def root(repository: Project, tmp_path: Path) -> Path:
    """A copy of what the images are made from, that a test may change."""
    for part in ("image", "images", "toolkit"):
        ignored = shutil.ignore_patterns("__pycache__", ".venv", "tests")
        shutil.copytree(repository.root / part, tmp_path / part, ignore=ignored)
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
        ("{cell.folder}/type.lock", "type.lock"),
        ("images/installer.lock", "installer.lock"),
        ("toolkit/src/hf_inference_toolkit/app.py", "toolkit"),
        ("toolkit/pyproject.toml", "toolkit"),
        ("image/finish.py", "finish"),
    ],
)
def test_a_change_is_named(repository: Project, root: Path, file: str, name: str) -> None:
    """Each file changes the one input that it is."""
    cell = repository.default
    assert changed_by(cell, root, file.format(cell=cell), "new==1.0") == [name]


def test_what_docker_does_not_read_changes_nothing(repository: Project, root: Path) -> None:
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
def test_a_label_that_tells_nothing_makes_nothing_up_to_date(repository: Project, label: str | None) -> None:
    """An image without the label, or with a damaged one, is never taken for the cell's."""
    assert inputs.read(label) != inputs.of(repository.default, repository.root, IMAGES)


def test_a_label_tells_what_was_written(repository: Project) -> None:
    """There and back."""
    made_from = inputs.of(repository.default, repository.root, IMAGES)
    assert inputs.read(inputs.text(made_from)) == made_from


def pair(repository: Project, device: str) -> tuple[Cell, Cell]:
    """The training and the inference cell of today's PyTorch."""
    found = [c for c in repository.cells if c.framework_version == "2.13.0" and c.device == device]
    training, inference = found
    return training, inference


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_training_and_inference_share_their_heavy_layers(repository: Project, device: str) -> None:
    """All but what their type alone holds."""
    one, two = (layers.layers(cell, repository.root) for cell in pair(repository, device))
    assert {stage for stage in one if one[stage] != two.get(stage)} == {"data", "type"}


def test_frameworks_share_what_is_the_same_beside_each(repository: Project) -> None:
    """Arrays, what training images hold, the toolkit and its needs."""
    found = [cell for cell in repository.cells if cell.device == "cpu" and cell.python == "3.11"]
    laid = {(cell.framework, cell.type): layers.layers(cell, repository.root) for cell in found}
    assert len(laid) == 4
    one, two = (laid[framework, "training"].items() for framework in ("pytorch", "tensorflow"))
    assert {stage for stage, _ in one & two} == {"arrays", "data", "toolkit-needs", "toolkit", "venv"}
    one, two = (laid[framework, "inference"].items() for framework in ("pytorch", "tensorflow"))
    assert {stage for stage, _ in one & two} == {"arrays", "toolkit-needs", "toolkit", "venv"}


def test_a_layer_has_another_address_when_its_packages_change(repository: Project, root: Path) -> None:
    """And only that layer; the toolkit's sources change the toolkit's."""
    cell = repository.default
    before = layers.layers(cell, root)
    append(root / cell.folder / "transformers.lock", "new==1.0")
    after = layers.layers(cell, root)
    assert [stage for stage in before if before[stage] != after[stage]] == ["transformers"]
    inputs.toolkit.cache_clear()
    append(root / "toolkit/README.md", "new")
    last = layers.layers(cell, root)
    assert [stage for stage in after if after[stage] != last[stage]] == ["toolkit"]


@pytest.mark.parametrize("name", ["*-inference:2.4.1-*-cpu-*", "*-inference:2.13.0-*-cpu-*"])
def test_what_a_stage_looks_into_moves_its_layer(repository: Project, root: Path, name: str) -> None:
    """The toolkit's wheel, what finishes layers; an image that no stage makes is a name."""
    (cell,) = select(repository.cells, Filter((name,)))
    file = root / cell.folder / "Dockerfile"
    file.write_text(
        file.read_text().replace("AS arrays\n", "AS arrays\nCOPY --from=example.org/uv:1 /uv /bin/\n")
    )
    before = layers.layers(cell, root)
    inputs.toolkit.cache_clear()
    append(root / "toolkit/README.md", "new")
    after = layers.layers(cell, root)
    assert [stage for stage in before if before[stage] != after[stage]] == ["toolkit"]
    append(root / inputs.FINISH, "# new")
    last = layers.layers(cell, root)
    assert {stage for stage in after if after[stage] == last[stage]} == {"venv"}


def test_a_change_of_the_installer_moves_what_it_installs(repository: Project, root: Path) -> None:
    """The layers depend on the stage that they are made in."""
    cell = repository.default
    before = layers.layers(cell, root)
    append(root / "images/installer.lock", "new==1.0")
    after = layers.layers(cell, root)
    assert {"framework", "transformers"} <= {stage for stage in before if before[stage] != after[stage]}
    assert before["venv"] == after["venv"]


def test_layers_are_made_apart_from_what_they_are_laid_on(repository: Project, root: Path) -> None:
    """By what their bytes depend on: the installer's image is part of it, the base is not."""
    cell = repository.default
    names = {
        images["base"] + images["installer_base"]: [part.name for part in bake.layers_of(cell, root, machine)]
        for images in (
            IMAGES,
            IMAGES | {"base": "python:3.11@sha256:3"},
            IMAGES | {"installer_base": "python:3.11@sha256:4"},
        )
        for machine in [Machine(starts={cell.id: images})]
    }
    one, of_another_base, of_another_installer = names.values()
    assert one == of_another_base
    assert set(one).isdisjoint(of_another_installer)
    assert len(set(one)) == len(cell.groups) + 1  # of the toolkit two: itself, and what it needs


def test_another_way_of_packing_gives_layers_another_name(repository: Project, root: Path) -> None:
    """All of them."""
    cell, machine = repository.default, Machine()
    before = {part.name for part in bake.layers_of(cell, root, machine)}
    append(root / inputs.PACK, "# another")
    assert before.isdisjoint({part.name for part in bake.layers_of(cell, root, machine)})


def test_types_of_a_release_have_the_same_parts(repository: Project) -> None:
    """So that each is made once for both."""
    cells = pair(repository, "cpu")
    laid = {cell.id: bake.layers_of(cell, repository.root, Machine()) for cell in cells}
    one, two = ({part.name for part in each} for each in laid.values())
    assert len(one & two) >= 4
    assert len(layers.distinct(laid)) == len(one | two)


@pytest.mark.parametrize("line", ["RUN true", "COPY there /", "ENV A=1"])
def test_an_image_whose_last_stage_does_more_is_made_whole(
    repository: Project, root: Path, line: str
) -> None:
    """What comes after the layers may need them."""
    cell = repository.default
    append(root / cell.folder / "Dockerfile", line)
    assert bake.layers_of(cell, root, Machine()) == []
    (root / cell.folder / "Dockerfile").unlink()
    assert bake.layers_of(cell, root, Machine()) == []
