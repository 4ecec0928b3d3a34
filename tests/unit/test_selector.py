"""Cells are chosen by id, by glob, or by their axes; choosing nothing is an error."""

from pathlib import Path

import pytest

from hfdlc.errors import UserError
from hfdlc.matrix.selector import Filter, select
from matrices import some_cells


@pytest.mark.parametrize(
    ("wanted", "positions"),
    [
        (Filter(), [0, 1, 2]),
        (Filter(patterns=("*gpu*",)), [1]),
        (Filter(patterns=("2.12.0-*",)), [2]),
        (Filter(patterns=("*:2.12.0-*", "*cu130*")), [1, 2]),
        (Filter(device="gpu"), [1]),
        (Filter(device="cu130"), [1]),
        (Filter(transformers=">=5"), [0, 1]),
        (Filter(transformers="4.57.6"), [2]),
        (Filter(framework="pytorch", type="inference", device="cpu"), [0, 2]),
    ],
)
def test_filter_selects_matching_cells(tmp_path: Path, wanted: Filter, positions: list[int]) -> None:
    """The chosen cells come in the matrix's order."""
    cells = some_cells(tmp_path)
    assert select(cells, wanted) == tuple(cells[position] for position in positions)


def test_a_pattern_without_a_match_names_the_nearest_cell(tmp_path: Path) -> None:
    """A misspelled id is repeated, with the cell that it is nearest to."""
    with pytest.raises(UserError) as caught:
        select(some_cells(tmp_path), Filter(patterns=("*", "2.12.0-transformer4.57.6")))
    assert "no cell matches 2.12.0-transformer4.57.6" in str(caught.value)
    assert "did you mean huggingface-pytorch-inference:2.12.0" in str(caught.value)


def test_axes_without_a_match_repeat_the_filter(tmp_path: Path) -> None:
    """All the options that were given are in the message."""
    with pytest.raises(UserError, match="--framework 'tensorflow' --transformers '>=5'"):
        select(some_cells(tmp_path), Filter(framework="tensorflow", transformers=">=5"))


def test_invalid_version_range_is_an_error(tmp_path: Path) -> None:
    """The message gives the two forms that are allowed."""
    with pytest.raises(UserError, match="is not a version or version range"):
        select(some_cells(tmp_path), Filter(transformers=">>5"))
