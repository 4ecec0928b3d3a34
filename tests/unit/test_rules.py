"""Rules exclude combinations, and a rule without effect is an error."""

from pathlib import Path

import pytest

from hfdlc import project
from hfdlc.errors import UserError
from hfdlc.matrix import rules
from hfdlc.project import Project
from matrices import write

NEEDS = 'needs: {framework_version: ">=2.13"}'
RULE = f"  - {{when: {{device: cu130}}, {NEEDS}, reason: only 2.13 is built for CUDA 13}}\n"


def here(folder: Path, *changes: tuple[str, str]) -> Project:
    write(folder, *changes)
    return project.find(folder)


def complaint(folder: Path, *changes: tuple[str, str]) -> str:
    with pytest.raises(UserError) as caught:
        here(folder, *changes)
    return str(caught.value)


def why(folder: Path, **request: str) -> str:
    found = here(folder)
    return rules.why(found.matrix, found.cells, request)


def test_a_combination_that_is_there_is_its_cell(tmp_path: Path) -> None:
    """All cells that fit are named."""
    assert why(tmp_path, device="cu130") == (
        "huggingface-pytorch-inference:2.13.0-transformers5.23.0-gpu-py311-cu130-debian12"
    )


def test_a_combination_that_cannot_be_has_a_rule_with_its_place(tmp_path: Path) -> None:
    """File, line, column and reason."""
    output = why(tmp_path, framework="pytorch", framework_version="2.12.0", device="cu130")
    assert output == "matrix.yaml:25:5: only 2.13 is built for CUDA 13"


def test_a_combination_that_no_rule_excludes_has_a_nearest_cell(tmp_path: Path) -> None:
    """It could be, but no release has it."""
    output = why(tmp_path, framework_version="2.12.0", transformers="5.23.0")
    assert output.startswith(
        "no rule excludes this combination, but no release has it; the nearest cell is huggingface-pytorch-"
    )


def test_an_unknown_axis_names_the_nearest(tmp_path: Path) -> None:
    """A misspelled axis is no silent mismatch."""
    with pytest.raises(UserError, match=r"unknown axis 'pyhton' \(did you mean 'python'\?\)"):
        why(tmp_path, pyhton="3.11")


def test_a_cell_that_breaks_a_rule_is_an_error(tmp_path: Path) -> None:
    """The rule's place, the cell, the reason."""
    output = complaint(tmp_path, ('framework_version: ">=2.13"}', 'framework_version: ">=2.14"}'))
    assert output.startswith(
        "matrix.yaml:25:5: this rule excludes huggingface-pytorch-inference:2.13.0-transformers5.23.0-gpu-"
    )
    assert "only 2.13 is built for CUDA 13" in output


@pytest.mark.parametrize(
    ("rule", "output"),
    [
        (
            "when: {device: cu131}, needs: {python: '>=3.8'}",
            "no cell has device 'cu131' (did you mean 'cu130'?)",
        ),
        (
            "when: {device: cpu}, needs: {python: '>=3.8'}",
            "excludes nothing: every combination has python >=3.8",
        ),
        ("when: {devise: cpu}, needs: {python: '>=3.8'}", "matrix.yaml:26:13: rules.1.when.devise"),
    ],
)
def test_a_rule_that_excludes_nothing_is_an_error(tmp_path: Path, rule: str, output: str) -> None:
    """A misspelled value or axis does not pass for a rule."""
    assert output in complaint(tmp_path, (RULE, f"{RULE}  - {{{rule}, reason: x}}\n"))


def test_two_rules_that_contradict_each_other_are_an_error(tmp_path: Path) -> None:
    """Both places are named: what the first allows, the second excludes."""
    other = "  - {when: {device: cu130}, needs: {framework_version: <2.13}, reason: x}\n"
    output = complaint(tmp_path, (RULE, RULE + other))
    assert "matrix.yaml:25:5: this rule and matrix.yaml:26:5 contradict each other" in output
    assert "no framework_version meets both" in output


def test_a_layer_group_that_no_cell_has_is_an_error(tmp_path: Path) -> None:
    output = complaint(
        tmp_path, ("when: {device: cu130}}\n  framework", "when: {device: cu999}}\n  framework")
    )
    assert "no cell has the layer group 'cuda': no cell has device cu999" in output
