"""Templates render what the matrix states, or report what they cannot render."""

import shutil
from pathlib import Path

import pytest

from hfdlc.dockerfile import render
from hfdlc.errors import UserError
from hfdlc.locks import lockfile
from hfdlc.matrix import cells, schema
from hfdlc.project import Project, find
from matrices import write

TEMPLATES = Path(__file__).parents[2] / "templates"


def printed(folder: Path, *changes: tuple[str, str]) -> str:
    """The Dockerfile of a cell whose framework is locked."""
    read = schema.read(write(folder, *changes))
    if not (folder / "templates").exists():
        shutil.copytree(TEMPLATES, folder / "templates")
    found = Project(folder, read, cells.cells(read))
    lock = folder / lockfile.group_file(found.cells[0], "framework")
    lock.parent.mkdir(parents=True)
    lock.write_text("torch==2.13.0+cpu --hash=sha256:00\n")
    return render.dockerfile(found.cells[0], found)


def copied(folder: Path, text: str) -> None:
    """The templates, with another one for the image."""
    shutil.copytree(TEMPLATES, folder / "templates")
    (folder / "templates" / "inference.Dockerfile.j2").write_text(text)


def test_a_cell_with_a_page_of_its_own_asks_that_page(tmp_path: Path) -> None:
    """The page's address is the default of an argument, so that a machine can bring the wheels instead."""
    assert "ARG framework_wheels=https://example.org/cpu/" in printed(tmp_path)


def test_a_layer_is_finished_with_the_entries_of_slim_for_its_packages(tmp_path: Path) -> None:
    slim = "  - {files: [torch/include], reason: headers}\n"
    more = "  - {packages: [torch], files: [torch/test], reason: a}\n"
    more += "  - {packages: [numpy], files: [numpy/test], reason: b}\n"
    more += "  - {packages: [torch, numpy], files: ['**/*.so'], remove: symbols, reason: c}\n"
    text = printed(tmp_path, (slim, slim + more))
    options = "--remove 'torch/include' 'torch/test' \\\n        --strip '**/*.so'\n"
    assert f"&& finish ${{LAYER}} \\\n        {options}" in text
    assert "numpy/test" not in text  # no lock file has it
    assert "ENV LEFT_OUT" not in text


def test_undefined_name_in_a_template_is_reported_with_line_and_cell(tmp_path: Path) -> None:
    """The message names the template, the line and the cell."""
    copied(tmp_path, "FROM x\nLABEL a={{ nothing }}\n")
    with pytest.raises(UserError) as caught:
        printed(tmp_path)
    output = str(caught.value)
    assert output.startswith("templates/inference.Dockerfile.j2:2: 'nothing' is undefined")
    assert "huggingface-pytorch-inference:2.13.0" in output


def test_syntax_error_in_a_template_is_reported_with_its_line(tmp_path: Path) -> None:
    """A tag that is never closed has a place too."""
    copied(tmp_path, "FROM x\n{% if cell.cuda %}\n")
    with pytest.raises(UserError, match=r"templates/inference\.Dockerfile\.j2:\d"):
        printed(tmp_path)


@pytest.mark.parametrize("python", ["3.10", "3.12"])
def test_the_installer_has_the_python_of_the_cell(tmp_path: Path, python: str) -> None:
    """The installing uv would write to the folder of its own Python."""
    change = ("    python: 3.11\n", f"    python: {python}\n")
    name = ("cpu-py311", f"cpu-py{python.replace('.', '')}")
    text = printed(tmp_path, change, name)
    assert f"ARG base=example.org/python:{python}\n" in text
    assert f"ARG installer_base=example.org/python:{python}\n" in text
    assert f"source=images/installer/py{python.replace('.', '')}/installer.lock" in text
    assert f"python{python} -m venv --without-pip /opt/venv" in text
    assert "3.11" not in text


def test_cells_of_a_base_with_pip_use_the_python_of_the_installer(tmp_path: Path) -> None:
    """It builds the toolkit and packs layers; packages are installed by the pip of the cell's own Python."""
    pip = "    platform: x86_64-manylinux_2_28\n"
    changes = (
        ("    python: 3.11\n", "    python: 3.6\n"),
        ("cpu-py311", "cpu-py36"),
        ("pythons: [3.10, 3.11, 3.12]", "pythons: [3.6, 3.10]"),
        ("    bootstrap: {3.11: {suite: bookworm, packages: [python3]}}\n", ""),
        (pip, f"{pip}    pip: example.org/pip:{{python}}\n"),
    )
    text = printed(tmp_path, *changes)
    assert "ARG installer_base=example.org/python:3.11\n" in text
    assert "ARG pip_base=example.org/pip:3.6\n" in text
    assert "python3.6 -m venv --without-pip --system-site-packages /opt/venv" in text


def test_inference_images_are_labelled_for_multi_model_endpoints(tmp_path: Path) -> None:
    """Training images have no server."""
    label = 'com.amazonaws.sagemaker.capabilities.multi-models="true"'
    assert label in printed(tmp_path)
    for cell in find(Path(__file__)).cells:
        assert ("multi-models" in " ".join(render.labels(cell))) == (cell.type == "inference")


def test_stages_of_layers_know_only_what_cells_share(tmp_path: Path) -> None:
    """Anything else of the cell would be missing in the key under which their texts are kept."""
    shutil.copytree(TEMPLATES, tmp_path / "templates")
    file = tmp_path / "templates/partials/uv.Dockerfile.j2"
    file.write_text(
        file.read_text().replace("FROM install-env AS", "# {{ cell.framework_version }}\nFROM install-env AS")
    )
    with pytest.raises(UserError, match=r"templates/partials/uv\.Dockerfile\.j2:\d+: .*'framework_version'"):
        printed(tmp_path)


def test_template_that_changes_while_the_program_runs_is_rendered_again(tmp_path: Path) -> None:
    """Also one that is imported by others."""
    before = printed(tmp_path)
    file = tmp_path / "templates/partials/macros.Dockerfile.j2"
    file.write_text(file.read_text().replace("--no-compile", "--no-compile --quiet"))
    shutil.rmtree(tmp_path / "images")
    assert printed(tmp_path) == before.replace("--no-compile", "--no-compile --quiet")
