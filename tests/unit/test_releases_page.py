"""The page of tested releases: what was not run is no result, and what failed is named."""

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
