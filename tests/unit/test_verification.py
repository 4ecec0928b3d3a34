"""What was verified is kept, shown with what was not run, and not verified again."""

from dataclasses import replace
from pathlib import Path

import pytest
import typer

import verification
import verify_releases
from hfdlc.build.session import Session
from hfdlc.errors import HfdlcError
from hfdlc.project import Project
from verification import Verification

CELL = "huggingface-tensorflow-training:2.4.1-transformers4.5.0-gpu-py37-cu110-ubuntu18.04"
VERIFIED = Verification(
    digest="sha256:0123456789abcdef",
    date="2026-11-23T12:00:00+00:00",
    made_from="sha256:0",
    toolkit="0.1.0",
    substitute="Debian 12 with pyenv's CPython 3.7.16",
    passed=["test_all: test_python"],
    not_run={"test_gpu: test_the_gpu_is_seen": "needs a GPU"},
)


@pytest.fixture
def project(repository: Project, tmp_path: Path) -> Project:
    """The repository, with a `docs` of its own to write to."""
    for part in ("image", "images", "toolkit"):
        (tmp_path / part).symlink_to(repository.root / part)
    return replace(repository, root=tmp_path)


def test_a_verification_is_kept_and_shown_with_what_was_not_run(project: Project) -> None:
    cell = next(cell for cell in project.cells if cell.id == CELL)
    verification.keep(cell, VERIFIED, project)
    assert verification.read(project.root) == {CELL: VERIFIED}
    page = (project.root / verification.PAGE).read_text()
    assert f"| `{CELL}` | `sha256:0123456789ab` | 2026-11-23 | 0.1.0 | substitute | 1 | 0 | 1 |" in page
    assert "- not run: test_gpu: test_the_gpu_is_seen: needs a GPU" in page


def test_a_cell_that_was_not_verified_is_shown_with_what_is_unreachable(project: Project) -> None:
    lines = verification.page(project).splitlines()
    (line,) = [line for line in lines if "pytorch-training:1.7.1" in line]
    assert "| not verified | - | - | unreachable: torch==1.7.1+cu110 from https://" in line


def test_a_cell_with_the_same_inputs_is_not_verified_again(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    cell = next(cell for cell in project.cells if cell.id == CELL)
    now = VERIFIED.model_copy(update={"made_from": verification.address(cell, project.root)})
    verification.keep(cell, now, project)
    verify_releases.verify(Session(project, {}), [cell], keep=False)
    assert capfd.readouterr().err == f"verified 2026-11-23: {CELL}\n"


def test_a_damaged_file_is_an_error_with_the_command_that_restores_it(project: Project) -> None:
    (project.root / "docs").mkdir()
    (project.root / verification.KEPT).write_text('{"a": {}}')
    with pytest.raises(HfdlcError, match=r"docs/verified.json: is damaged(.|\n)*git checkout"):
        verification.read(project.root)


def test_the_committed_page_belongs_to_the_committed_results(repository: Project) -> None:
    assert (repository.root / verification.PAGE).read_text() == verification.page(repository)


@pytest.mark.parametrize("problem", [HfdlcError("no"), AssertionError("no"), ValueError("no JSON")])
def test_a_use_that_fails_is_recorded_and_the_next_one_runs(problem: Exception) -> None:
    def fail() -> None:
        raise problem

    def skip() -> None:
        raise verify_releases.NotRun("it needs pandas")

    found = VERIFIED.model_copy(update={"passed": [], "failed": {}, "not_run": {}})
    verify_releases._use({"one": fail, "two": skip, "three": lambda: None}, found)
    assert found.failed == {"use: one": str(problem)}
    assert found.not_run == {"use: two": "it needs pandas"}
    assert found.passed == ["use: three"]


def test_cell_that_does_not_exist_is_an_error(
    repository: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a traceback."""
    monkeypatch.chdir(repository.root)
    with pytest.raises(typer.Exit) as ended:
        verify_releases.main(["nothing"])
    assert ended.value.exit_code == 2
    assert "error: no cell matches nothing" in capsys.readouterr().err
