"""The page of tested releases: what was not run is no result, and what failed is named."""

from pathlib import Path

import pytest

import test_releases
from hfdlc.project import Project
from test_releases import Result


def test_page_has_a_row_for_each_release() -> None:
    failed = [f"test_a.py::test_{number}" for number in range(22)]
    page = test_releases.page({"4.46.1": Result("2026-11-30", "torch 2.13.0", "3.11", 300, 5, failed)})
    assert "| 4.46.1 | torch 2.13.0 | 3.11 | 2026-11-30 | 300 | 22 | 5 |" in page
    assert page.count("| not run | - | - | - |") == len(test_releases.RELEASES) - 1
    assert "- failed: `test_a.py::test_19`" in page
    assert "- and 2 more" in page


def test_committed_page_belongs_to_the_committed_results(repository: Project) -> None:
    results = test_releases.read(repository.root)
    assert (repository.root / test_releases.PAGE).read_text() == test_releases.page(results)


def test_unknown_release_is_an_error() -> None:
    assert test_releases.main(["1.0"]) == 2


@pytest.mark.parametrize(
    ("code", "output", "passed", "failed"),
    [
        (0, "3 passed, 1 skipped in 1.00s", 3, []),
        (
            1,
            "FAILED tests/a.py::b[c] - x\nERROR tests/a.py::d\n1 failed, 2 passed, 1 error",
            2,
            ["a.py::b[c]", "a.py::d"],
        ),
        (1, f"FAILED tests/a.py::b[{'c' * 2000}] - x\n1 failed in 1.00s", 0, [f"a.py::b[{'c' * 112}"]),
        (1, "2 passed, 1 error in 1.00s", 2, ["pytest ended with 1: why"]),
        (0, "no tests ran", 0, ["pytest ended with 0: why"]),
        (-9, "5 passed", 5, ["pytest ended with -9: why"]),
    ],
)
def test_run_that_did_not_end_well_has_failed(code: int, output: str, passed: int, failed: list[str]) -> None:
    result = Result("2026-11-30", "torch 2.13.0", "3.11")
    test_releases.count(result, code, output, "why\n")
    assert (result.passed, result.failed) == (passed, failed)


def test_newest_python_of_pyenv_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one whose name is the last by its letters."""
    for version in ("3.8.9", "3.8.18", "3.11.2"):
        (tmp_path / f"versions/{version}/bin").mkdir(parents=True)
        (tmp_path / f"versions/{version}/bin/python").touch()
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert test_releases._interpreter("3.8") == f"{tmp_path}/versions/3.8.18/bin/python"
    assert test_releases._interpreter("3.12") == "python3.12"
