"""`hfdlc publish --build`: which cells are built, and what the checks of GPU images need."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from hfdlc.build import builder, freshness
from hfdlc.build.session import Session
from hfdlc.checks import runner
from hfdlc.dockerfile import inputs
from hfdlc.engine.containers import NoGpu
from hfdlc.errors import HfdlcError
from hfdlc.matrix.cells import Cell
from hfdlc.oci.loopback import Content
from hfdlc.project import Project
from hfdlc.publish import builds, transfer
from hfdlc.publish.publisher import Differs, Options
from hfdlc.publish.targets import Target
from parts import write_project
from publishing import INPUTS, Signer, candidate, image, predicates, target

CHANGED = {"Dockerfile": "changed"}
Steps = list[tuple[str, list[str]]]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with cells for CPUs and one for a GPU."""
    return write_project(tmp_path / "project")


@pytest.fixture
def registry() -> Iterator[tuple[Target, Content]]:
    """One empty registry."""
    with target() as made:
        yield made


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """What is built and checked, which would take minutes; all cells have the inputs INPUTS."""
    done: Steps = []

    def step(name: str) -> Callable[..., None]:
        def take(_: Session, cells: Sequence[Cell], *, gpus: bool = False) -> None:
            if cells:
                done.append((f"{name} with GPUs" if gpus else name, [cell.id for cell in cells]))

        return take

    monkeypatch.setattr(builder, "inputs_of", lambda _, cells: {cell.id: INPUTS for cell in cells})
    monkeypatch.setattr(builder, "build", step("build"))
    monkeypatch.setattr(runner, "check", step("check"))
    return done


def publish(cell: Cell, where: Target, folder: Path, image_inputs: inputs.Inputs) -> None:
    """Set the cell's tag to an image that was built from these inputs."""
    made = image(folder, b"a", labels={inputs.LABEL: inputs.text(image_inputs)})
    transfer.copy_blobs(made, where, cell.repository, [])
    transfer.set_tag(where, cell.repository, cell.tag, made.manifest)


def test_published_label_is_read_from_the_registry(
    project: Project, registry: tuple[Target, Content], tmp_path: Path
) -> None:
    """None for a cell that is not published."""
    where, _ = registry
    first, second = project.cells[:2]
    publish(first, where, tmp_path / "store", INPUTS)
    assert builds.published_label(where, first) == inputs.text(INPUTS)
    assert builds.published_label(where, second) is None


@pytest.mark.parametrize(
    ("published", "up_to_date"),
    [
        ({}, True),
        ({"compiler_base": "an image whose digest is unknown here"}, True),
        ({"toolkit": "other"}, False),
    ],
)
def test_published_cell_is_compared_as_build_compares_one_in_the_engine(
    project: Project,
    registry: tuple[Target, Content],
    tmp_path: Path,
    steps: Steps,
    published: dict[str, str],
    up_to_date: bool,
) -> None:
    where, _ = registry
    cell, of_image = project.default, {**INPUTS, **published}
    publish(cell, where, tmp_path / "store", of_image)
    assert (freshness.changed(inputs.text(of_image), INPUTS) == []) == up_to_date
    if up_to_date:
        assert builds.built(project, [cell], {}, where) == ()
    else:
        with pytest.raises(Differs, match="toolkit"):
            builds.built(project, [cell], {}, where)
    assert steps == []


def test_cells_that_are_not_published_are_built_and_checked(
    project: Project, registry: tuple[Target, Content], tmp_path: Path, steps: Steps
) -> None:
    """GPU images are checked with the GPUs of the machine."""
    where, _ = registry
    first, gpu = project.cells[:2]
    assert gpu.cuda
    other = next(cell for cell in project.cells if cell.type == "training")
    publish(first, where, tmp_path / "store", INPUTS)
    assert builds.built(project, [first, gpu, other], {}, where) == (gpu, other)
    assert steps == [
        ("build", [gpu.id, other.id]),
        ("check", [other.id]),
        ("check with GPUs", [gpu.id]),
    ]


def test_other_targets_get_what_the_first_one_has(
    project: Project, registry: tuple[Target, Content], tmp_path: Path, steps: Steps
) -> None:
    """With its signature and attestations; nothing is built for them."""
    (first, _), cell = registry, project.default
    made = image(tmp_path / "store", b"a", labels={inputs.LABEL: inputs.text(INPUTS)})
    transfer.copy_blobs(made, first, cell.repository, [])
    attached = Signer().sign(cell.repository, made.manifest, predicates(candidate(cell, made), made))
    transfer.attach(first.registry, cell.repository, made.manifest.digest, attached)
    transfer.set_tag(first, cell.repository, cell.tag, made.manifest)
    with target() as (second, _):
        found = builds.publish(project, [cell], {}, [first, second], Options())
        assert [(one.target, one.state) for one in found] == [(second, "missing")]
        assert second.registry.head(cell.repository, cell.tag) == made.manifest.digest
        assert transfer.attachments(second.registry, cell.repository, made.manifest.digest) == attached
    assert steps == []


def test_without_gpu_checks_gpu_images_are_checked_without_gpus(
    project: Project, registry: tuple[Target, Content], steps: Steps
) -> None:
    gpu = next(cell for cell in project.cells if cell.cuda)
    builds.built(project, [gpu], {}, registry[0], gpu_checks=False)
    assert steps == [("build", [gpu.id]), ("check", [gpu.id])]


def test_cell_published_from_other_inputs_is_refused_before_anything_is_built(
    project: Project, registry: tuple[Target, Content], tmp_path: Path, steps: Steps
) -> None:
    """A tag never moves."""
    where, _ = registry
    publish(project.default, where, tmp_path / "store", CHANGED)
    with pytest.raises(Differs, match=r"from other inputs \(Dockerfile\): a tag never moves"):
        builds.built(project, project.cells, {}, where)
    assert steps == []


def test_gpu_cell_is_refused_on_a_machine_without_a_gpu(
    project: Project, registry: tuple[Target, Content], steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the cell, and the option that publishes without these checks."""
    gpu = next(cell for cell in project.cells if cell.cuda)

    def check(_: Session, cells: Sequence[Cell], *, gpus: bool = False) -> None:
        if cells and gpus:
            raise NoGpu("the engine has no way to a GPU")
        return

    monkeypatch.setattr(runner, "check", check)
    with pytest.raises(HfdlcError, match="the engine has no way to a GPU, and the checks") as caught:
        builds.built(project, [gpu], {}, registry[0])
    assert str(caught.value).startswith(f"{gpu.id}: ")
    assert "--without-gpu-checks" in str(caught.value)
