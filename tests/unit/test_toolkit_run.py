"""Reading the output of the toolkit's tests: what counts as a pass, and which skips are accepted."""

import pytest

import toolkit_run

GPU = "SKIPPED [2] tests/test_gpu.py:8: needs a GPU: not run\n"
LOST = "SKIPPED [1] tests/test_tasks.py:3: could not import 'transformers'\n"


@pytest.fixture(autouse=True)
def accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept tests that need a GPU."""
    monkeypatch.setattr(toolkit_run, "ACCEPTED", ("needs a GPU",))


def test_accepted_skips_are_reported() -> None:
    lines = toolkit_run.skipped(f"....ss\n{GPU}4 passed, 2 skipped in 1.00s\n")
    assert lines == ["2 skipped, tests/test_gpu.py:8: needs a GPU: not run"]


def test_run_without_skips_reports_nothing() -> None:
    assert toolkit_run.skipped("....\n4 passed in 1.00s\n") == []


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (f"..s\n{LOST}2 passed, 1 skipped in 1.00s", "unknown reasons:\ntests/test_tasks.py:3"),
        (f"ss\n{GPU}2 skipped in 1.00s", "no test passed"),
        ("no tests ran in 0.01s", "no test passed"),
        (f".ss\n{GPU}1 passed, 300 skipped in 1.00s", "300 skipped"),
    ],
    ids=["unknown reason", "all are skipped", "no tests", "skips without a reason"],
)
def test_lost_tests_are_an_error(output: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        toolkit_run.skipped(output)
