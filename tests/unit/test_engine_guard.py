"""The guard of the marker `engine`, in a test run of its own where an engine answers."""

import re

import pytest

import engine_guard

TESTS = """
import subprocess
from types import SimpleNamespace

import pytest
from hfdlc.engine import detect

@pytest.fixture(scope="session", autouse=True)
def an_engine_that_answers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detect, "find", lambda environ, state: SimpleNamespace(host="unix:///fake.sock"))
        yield

@pytest.fixture
def used_engine():
    return detect.find({}, None)

def test_unmarked_finds():
    detect.find({}, None)

def test_unmarked_starts():
    subprocess.Popen(["/no/dockerd"])

@pytest.mark.engine
def test_marked_finds():
    assert detect.find({}, None)

def test_requests_a_fixture(used_engine):
    assert used_engine
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> pytest.Pytester:
    """The folder of such a run."""
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\nmarkers = ['engine']")
    pytester.makepyfile(TESTS)
    return pytester


def test_unmarked_test_that_uses_an_engine_fails(run: pytest.Pytester) -> None:
    """A test that requests the engine as a fixture is marked by that."""
    result = run.runpytest_inprocess("--tb=line", plugins=[engine_guard])
    result.assert_outcomes(failed=2, passed=2)
    for used in ("unix:///fake.sock", "['/no/dockerd']"):
        result.stdout.re_match_lines([re.escape(f"E   Failed: {engine_guard.MESSAGE}: {used}")])


def test_not_engine_deselects_marked_tests(run: pytest.Pytester) -> None:
    result = run.runpytest_inprocess("--tb=line", "-m", "not engine", plugins=[engine_guard])
    result.assert_outcomes(failed=2, deselected=2)
