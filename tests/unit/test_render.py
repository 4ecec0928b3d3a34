"""Templates print what the matrix decided, or say where they cannot."""

import shutil
from pathlib import Path

import pytest

from hfdlc.dockerfile import render
from hfdlc.errors import UserError
from hfdlc.matrix import cells, schema
from matrices import write

TEMPLATES = Path(__file__).parents[2] / "templates"


def printed(folder: Path, templates: Path = TEMPLATES) -> str:
    read = schema.read(write(folder))
    return render.dockerfile(cells.cells(read)[0], read, templates)


def copied(folder: Path, text: str) -> Path:
    """The templates, with another one for the image."""
    shutil.copytree(TEMPLATES, folder / "templates")
    (folder / "templates" / "inference.Dockerfile.j2").write_text(text)
    return folder / "templates"


def test_a_cell_with_a_page_of_its_own_asks_that_page(tmp_path: Path) -> None:
    """The page's address is the default of an argument, so that a machine can bring the wheels instead."""
    assert "ARG framework_wheels=https://example.org/cpu/" in printed(tmp_path)


def test_what_is_left_out_of_packages_is_the_matrixs(tmp_path: Path) -> None:
    """The patterns stand once, in the stage that installs; the layers carry them out."""
    assert 'ENV LEFT_OUT="torch/include"' in printed(tmp_path)


def test_an_undefined_name_is_told_with_its_line_and_the_cell(tmp_path: Path) -> None:
    """The message names the template, the line and the cell."""
    templates = copied(tmp_path, "FROM x\nLABEL a={{ nothing }}\n")
    with pytest.raises(UserError) as caught:
        printed(tmp_path, templates)
    told = str(caught.value)
    assert told.startswith("templates/inference.Dockerfile.j2:2: 'nothing' is undefined")
    assert "huggingface-pytorch-inference:2.13.0" in told


def test_a_mistake_in_a_template_is_told_with_its_line(tmp_path: Path) -> None:
    """A tag that is never closed has a place too."""
    templates = copied(tmp_path, "FROM x\n{% if cell.cuda %}\n")
    with pytest.raises(UserError, match=r"templates/inference\.Dockerfile\.j2:\d"):
        printed(tmp_path, templates)
