"""Cache keys change with everything that decides a layer's bytes, and with nothing else."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from hfdlc import project
from hfdlc.dockerfile import cache_keys, inputs, render
from hfdlc.errors import UserError
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.selector import Filter, select
from hfdlc.project import Project
from matrices import copy_parts

TODAY, OF_2021 = "*-training:2.13.0-*-cpu-py311-*", "*-inference:2.4.1-*-cpu-*"


@pytest.fixture
def clone(repository: Project, tmp_path: Path) -> Project:
    """A copy of what cache keys are made of, that a test may change."""
    copy_parts(repository.root, tmp_path, "image", "images", "templates", "toolkit")
    shutil.copy(repository.root / "matrix.yaml", tmp_path)
    return project.find(tmp_path)


def one(where: Project, pattern: str) -> Cell:
    (cell,) = select(where.cells, Filter((pattern,)))
    return cell


def keys(
    cell: Cell, where: Project, image_inputs: Mapping[str, str] = cache_keys.NO_INPUTS
) -> dict[str, str]:
    return {layer.name: layer.cache_key for layer in cache_keys.keyed_layers(cell, where, image_inputs)}


def append(file: Path, text: str) -> None:
    file.write_text(f"{file.read_text()}{text}\n")


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_training_and_inference_share_all_but_the_layers_of_their_type(
    repository: Project, device: str
) -> None:
    training, inference = (
        keys(cell, repository)
        for cell in repository.cells
        if cell.framework_version == "2.13.0" and cell.python == "3.11" and cell.device == device
    )
    assert {name for name in training if training[name] != inference.get(name)} == {
        "training-libraries",
        "type-libraries",
        "peft",  # psutil, which it requires, is in training-libraries
        "tuning",
        *(["bitsandbytes"] if device == "gpu" else []),
    }


def test_frameworks_share_the_layers_without_framework_packages(repository: Project) -> None:
    found = [cell for cell in repository.cells if cell.device == "cpu" and cell.python == "3.11"]
    layers = {(cell.framework, cell.type): keys(cell, repository) for cell in found}
    assert len(layers) == 4
    for kind, more in (("training", {"training-libraries"}), ("inference", {"aws", "media"})):
        pytorch, tensorflow = (layers[framework, kind].items() for framework in ("pytorch", "tensorflow"))
        assert {name for name, _ in pytorch & tensorflow} == {"arrays", "toolkit", "inference-toolkit"} | more


def test_distinct_gives_a_shared_layer_once(repository: Project) -> None:
    pair = [
        c
        for c in repository.cells
        if c.framework_version == "2.13.0" and c.python == "3.11" and c.device == "cpu"
    ]
    layers = {cell.id: cache_keys.keyed_layers(cell, repository) for cell in pair}
    found = [layer.cache_key for layer in cache_keys.distinct(layers)]
    assert len(found) == len(set(found)) < sum(map(len, layers.values()))


@pytest.mark.parametrize("pattern", [TODAY, OF_2021])
def test_a_changed_lock_file_changes_its_own_layer(clone: Project, pattern: str) -> None:
    cell = one(clone, pattern)
    before = keys(cell, clone)
    append(clone.root / cell.folder / "transformers.lock", "new==1.0")
    assert changed(before, keys(cell, clone)) == {"transformers"}


@pytest.mark.parametrize("pattern", [TODAY, OF_2021])
def test_changed_toolkit_sources_change_the_layer_of_the_toolkit(clone: Project, pattern: str) -> None:
    cell = one(clone, pattern)
    before = keys(cell, clone)
    inputs.toolkit.cache_clear()
    append(clone.root / "toolkit/README.md", "new")
    assert changed(before, keys(cell, clone)) == {"inference-toolkit"}


def test_a_changed_train_program_changes_the_layer_that_holds_it(clone: Project) -> None:
    cell = one(clone, TODAY)
    before = keys(cell, clone)
    append(clone.root / inputs.TRAIN, "# new")
    assert changed(before, keys(cell, clone)) == {"type-libraries"}


@pytest.mark.parametrize("file", [inputs.FINISH, inputs.PACK, "images/installer/py311/installer.lock"])
@pytest.mark.parametrize("pattern", [TODAY, OF_2021])
def test_what_makes_layers_changes_all_of_them(clone: Project, pattern: str, file: str) -> None:
    cell = one(clone, pattern)
    before = keys(cell, clone)
    append(clone.root / file, "# new==1.0" if file.endswith(".py") else "new==1.0")
    assert changed(before, keys(cell, clone)) == set(before)


@pytest.mark.parametrize(
    ("pattern", "image", "layers"),
    [
        (TODAY, "base", set[str]()),
        (TODAY, "installer_base", None),
        (TODAY, "compiler_base", {"type-libraries"}),
        (OF_2021, "pip_base", None),
    ],
)
def test_the_images_that_layers_are_made_in_count_and_the_base_does_not(
    repository: Project, pattern: str, image: str, layers: set[str] | None
) -> None:
    cell = one(repository, pattern)
    before, after = (keys(cell, repository, {image: digest}) for digest in ("1", "2"))
    assert changed(before, after) == (set(before) if layers is None else layers)


def edited(clone: Project, template: str, old: str, new: str) -> None:
    file = clone.templates / template
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    render._environment.cache_clear()


@pytest.mark.parametrize(
    ("old", "new", "layers"),
    [
        ("uv pip install --offline", "uv pip install --quiet --offline", {"inference-toolkit"}),
        ("UV_NO_CACHE=1", "UV_NO_CACHE=true", None),
        ("# Compiles packages without wheels", "# Compiles the packages without wheels", set[str]()),
        (
            "python{{ cell.installer_python }} -m venv --without-pip /opt/venv\n{% endmacro",
            "true\n{% endmacro",
            {"type-libraries"},
        ),
    ],
)
def test_an_edited_template_changes_the_layers_that_it_makes(
    clone: Project, old: str, new: str, layers: set[str] | None
) -> None:
    """An edited comment changes none."""
    cell = one(clone, TODAY)
    before = keys(cell, clone)
    edited(clone, "partials/uv.Dockerfile.j2", old, new)
    assert changed(before, keys(cell, clone)) == (set(before) if layers is None else layers)


@pytest.mark.parametrize(
    ("new", "line"),
    [
        ("{% endfor %}\nRUN true", "RUN true"),
        ("{% endfor %}\nENV A=1", "ENV A=1"),
        ("{% endfor %}\nCOPY there /", "COPY there /"),
    ],
)
def test_a_last_stage_that_does_more_than_copy_layers_is_an_error(
    clone: Project, new: str, line: str
) -> None:
    edited(clone, "partials/last.Dockerfile.j2", "{% endfor %}", new)
    with pytest.raises(UserError) as caught:
        render.dockerfile(clone.default, clone)
    number = (clone.templates / "partials/last.Dockerfile.j2").read_text().splitlines().index(line) + 1
    assert str(caught.value).startswith(
        f"templates/partials/last.Dockerfile.j2:{number}: the last stage must"
    )
    assert repr(line) in str(caught.value)


def test_a_last_stage_without_a_layer_is_an_error(clone: Project) -> None:
    edited(clone, "partials/last.Dockerfile.j2", "in layers %}", "in layers[1:] %}")
    with pytest.raises(UserError, match="must only copy the layers in their order"):
        render.dockerfile(clone.default, clone)


@pytest.mark.parametrize(
    ("entry", "layers"),
    [
        ("{packages: [torch], files: [torch/more], reason: more}", {"framework"}),
        ("{packages: [nothing], files: [nothing/more], reason: more}", set[str]()),
        ("{packages: [scipy], files: [scipy/more], remove: symbols, reason: more}", {"training-libraries"}),
        ("{files: [more], reason: more}", None),
    ],
)
def test_an_entry_of_slim_changes_the_layers_that_hold_its_packages(
    clone: Project, entry: str, layers: set[str] | None
) -> None:
    before = keys(one(clone, TODAY), clone)
    file = clone.root / "matrix.yaml"
    file.write_text(file.read_text().replace("slim:\n", f"slim:\n  - {entry}\n"))
    found = project.find(clone.root)
    after = keys(one(found, TODAY), found)
    assert changed(before, after) == (set(before) if layers is None else layers)


def test_a_new_layer_group_is_one_entry_of_the_matrix(clone: Project) -> None:
    """Its layer is where the entry is, only in cells that meet `when`."""
    file = clone.root / "matrix.yaml"
    entry = "  video: {requires: [av], packages: [pillow], when: {type: inference, python: '>=3.8'}}\n"
    file.write_text(file.read_text().replace("  type-libraries:", f"{entry}  type-libraries:"))
    found = project.find(clone.root)
    cell, training, old = (one(found, name) for name in (clone.default.id, TODAY, OF_2021))
    assert cell.groups[-8:] == (
        "video",
        "type-libraries",
        "media",
        "aws",
        "openvino",
        "grammar",
        "peft",
        "toolkit",
    )
    assert "av" in cell.packages
    assert "video" not in training.groups
    assert "video" not in old.groups
    text = render.dockerfile(cell, found)
    assert f"source={cell.folder}/video.lock," in text
    assert "COPY --link --from=video /layer/ /\nCOPY --link --from=type-libraries /layer/ /\n" in text
