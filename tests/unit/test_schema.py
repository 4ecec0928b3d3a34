"""Errors in a matrix are reported with file, line and column, all at once."""

from pathlib import Path

import pytest

from hfdlc.errors import Problems, UserError
from hfdlc.matrix import cells, schema
from matrices import some_cells, write


def complaint(folder: Path, *changes: tuple[str, str]) -> str:
    with pytest.raises(UserError) as caught:
        cells.cells(schema.read(write(folder, *changes)))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_cell_is_named_as_docker_names_it(tmp_path: Path) -> None:
    """The id is repository, tag and every axis; CUDA stands in it where there is one."""
    assert [cell.id for cell in some_cells(tmp_path)] == [
        "huggingface-pytorch-inference:2.13.0-transformers5.23.0-cpu-py311-debian12",
        "huggingface-pytorch-inference:2.13.0-transformers5.23.0-gpu-py311-cu130-debian12",
        "huggingface-pytorch-inference:2.12.0-transformers4.57.6-cpu-py310-debian12",
    ]


def test_a_version_keeps_its_last_zero(tmp_path: Path) -> None:
    """`python: 3.10` is the version 3.10, not the number 3.1."""
    assert some_cells(tmp_path)[2].python == "3.10"


@pytest.mark.parametrize(
    ("old", "new", "output"),
    [
        (
            "    python: 3.11",
            "    pyhton: 3.11",
            "matrix.yaml:6:5: unknown key 'pyhton' (did you mean 'python'?)",
        ),
        (
            "    python: 3.11",
            "    python: [3.11]",
            "matrix.yaml:6:5: releases.0.python: input should be a valid string",
        ),
        (
            "transformers: 5.23.0",
            "transformers: five",
            "matrix.yaml:4:5: releases.0.transformers: 'five' is not a version",
        ),
        (
            "    os: debian12",
            "    os: debian21",
            "matrix.yaml:7:5: unknown base 'debian21' (did you mean 'debian12'?)",
        ),
        (
            "  debian12:",
            "  trixie:",
            "matrix.yaml:28:3: bases.trixie: 'trixie' is not the name of a base: letters and a version",
        ),
        (
            "    python: 3.11",
            "    python: 3.9",
            "matrix.yaml:6:5: the base 'debian12' has no Python 3.9\n  allowed: 3.10, 3.11, 3.12",
        ),
        (
            "pythons: [3.10, 3.11, 3.12]",
            "apt: []",
            "matrix.yaml:28:3: missing key 'pythons'",
        ),
        ("[3.10, 3.11, 3.12]", "[]", "matrix.yaml:30:5: bases.debian12.pythons: list should have at least 1"),
        (
            "[3.10, 3.11, 3.12]",
            "[3.7, 3.10, 3.11]",
            "matrix.yaml:30:5: the base 'debian12' needs `pip`: uv does not support Python 3.7",
        ),
        (
            "{3.11: {suite: bookworm",
            "{3.13: {suite: bookworm",
            "matrix.yaml:31:17: the base 'debian12' has no Python 3.13\n  allowed: 3.10, 3.11, 3.12",
        ),
        ("[cpu, cu130]", "[cpu, cu131]", "matrix.yaml:10:7: unknown source of pytorch 'cu131'"),
        (
            "[cpu, cu130]",
            "[cpu, cpu]",
            "matrix.yaml:10:7: duplicate cell huggingface-pytorch-inference:2.13.0-",
        ),
        (
            "    os: debian12",
            "    os: debian12\n    os: debian12",
            "matrix.yaml:8:5: duplicate key 'os'",
        ),
        (
            "pytorch 2.13.0",
            "keras 2.13.0",
            "matrix.yaml:3:5: releases.0.framework: 'keras 2.13.0' is not `pytorch VERSION`",
        ),
        ("[torch/include]", "[/torch]", "matrix.yaml:48:14: slim.0.files.0: '/torch' is not a pattern below"),
        ("[torch/include]", '["a b"]', "matrix.yaml:48:14: slim.0.files.0: 'a b' is not a pattern below"),
        ("[torch/include]", "[torch/../..]", "matrix.yaml:48:14: slim.0.files.0: 'torch/../..' is no"),
        (
            "{files: [torch/include], ",
            "{remove: symbols, packages: [a], ",
            "matrix.yaml:48:5: missing key 'files'",
        ),
        ("[torch/include]", "[]", "matrix.yaml:48:6: slim.0.files: list should have at least 1 item"),
        (
            "{rest: framework}",
            "{packages: [torch]}",
            "matrix.yaml:39:1: exactly one layer group must have `rest: framework`",
        ),
        ("{packages: [numpy]}", "{}", "matrix.yaml:42:3: the layer group 'arrays' has no packages"),
        ("  arrays: ", "  image: ", "reserved layer group name 'image': a Dockerfile stage has this name"),
        ("[numpy]", "[Num_Py]", "'Num_Py' is not a canonical package name"),
        ("1.9 GB", "1.9", "matrix.yaml:52:12: types.inference.size.cpu: '1.9' is not a size"),
        ("1.9 GB", "inf GB", "types.inference.size.cpu: 'inf GB' is not a size"),
        (
            "python:{python}",
            "python:{pyhton}",
            "matrix.yaml:29:5: bases.debian12.image: 'example.org/python:{pyhton}' has another placeholder",
        ),
        ("python:{python}", "python:{", "'example.org/python:{' has another placeholder than {python}"),
        ('"torch=={version}"]', '"torch=={datasets}"]', "torch==2.13.0; placeholders: {version}"),
        ("[sentencepiece]", '["a=={version}"]', "'a=={version}' is not a requirement like"),
        ("[starlette, uvicorn]", '["a=={datasets}"]', "'a=={datasets}' is not a requirement like"),
        ("    os: debian12", "    os: {{os}}", "matrix.yaml:7:10: a key must be text\n  hint: put quotes"),
        ("default:", "# \x01\ndefault:", "matrix.yaml: not valid YAML: "),
        ("default: hugging", "default: bugging", "no such cell: bugging"),
        ("releases:", "releases: ]", "matrix.yaml:2:11: not valid YAML"),
    ],
)
def test_an_error_says_where_and_what(tmp_path: Path, old: str, new: str, output: str) -> None:
    """Each kind of mistake has its place and its words."""
    assert output in complaint(tmp_path, (old, new))


def test_all_errors_of_a_matrix_are_reported_together(tmp_path: Path) -> None:
    """Three mistakes give three messages."""
    changes = (("transformers: 5.23.0", "transformers: x"), ("suite:", "siute:"), ("1.9 GB", "big"))
    with pytest.raises(Problems) as caught:
        schema.read(write(tmp_path, *changes))
    output = str(caught.value)
    assert "'x' is not a version" in output
    assert "unknown key 'siute' (did you mean 'suite'?)" in output
    assert "'big' is not a size" in output


def test_two_releases_with_one_tag_are_an_error_that_names_both(tmp_path: Path) -> None:
    changes = (
        ("pytorch 2.12.0", "pytorch 2.13.0"),
        ("transformers: 4.57.6", "transformers: 5.23.0"),
        ("python: 3.10", "python: 3.11"),
    )
    output = complaint(tmp_path, *changes)
    assert output.startswith("matrix.yaml:18:7: duplicate cell huggingface-pytorch-inference:2.13.0-")
    assert "(first at matrix.yaml:10:7)" in output


def test_python_of_another_base_is_an_error_that_names_that_base(tmp_path: Path) -> None:
    other = "  debian13: {image: a, pythons: [3.13], platform: linux}\n"
    output = complaint(
        tmp_path, ("    python: 3.11\n", "    python: 3.13\n"), ("bases:\n", f"bases:\n{other}")
    )
    assert "matrix.yaml:6:5: the base 'debian12' has no Python 3.13" in output
    assert output.endswith("hint: bases with Python 3.13: debian13")


def test_missing_matrix_is_an_error_without_traceback(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(UserError, match="nowhere"):
        schema.read(tmp_path / "nowhere.yaml")


def test_file_that_is_no_mapping_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "matrix.yaml").write_text("- releases\n")
    with pytest.raises(Problems, match=r"^matrix.yaml:1:1: the file must be a mapping"):
        schema.read(tmp_path / "matrix.yaml")
