"""What has been proved: kept whole, shown in full, and gone on from."""

from dataclasses import replace
from pathlib import Path

import pytest

from hfdlc.build.session import Session
from hfdlc.checks import proofs, prove
from hfdlc.checks.proofs import Proof
from hfdlc.errors import HfdlcError
from hfdlc.generated import drift
from hfdlc.project import Project

ROW = "huggingface-tensorflow-training:2.4.1-transformers4.5.0-gpu-py37-cu110-ubuntu18.04"
PROOF = Proof(
    digest="sha256:0123456789abcdef",
    date="2026-11-23T12:00:00+00:00",
    made_from="sha256:0",
    stand_in="Debian 12 with pyenv's CPython 3.7.16",
    passed=["test_all: test_python"],
    not_run={"test_gpu: test_the_gpu_is_seen": "needs a GPU"},
)


@pytest.fixture
def project(repository: Project, tmp_path: Path) -> Project:
    """The repository, with a `docs` of its own to write to."""
    for part in ("image", "images", "toolkit"):
        (tmp_path / part).symlink_to(repository.root / part)
    return replace(repository, root=tmp_path)


def test_result_is_stored_and_shown_on_the_page(project: Project) -> None:
    """Cell, image, date, base, numbers; what was not run by name; the page is the derived one."""
    cell = next(cell for cell in project.cells if cell.id == ROW)
    proofs.keep(cell, PROOF, project)
    assert proofs.read(project.root) == {ROW: PROOF}
    page = (project.root / proofs.PAGE).read_text()
    assert f"| `{ROW}` | `sha256:0123456789ab` | 2026-11-23 | on a stand-in | 1 | 0 | 1 |" in page
    assert "- not run: test_gpu: test_the_gpu_is_seen: needs a GPU" in page
    assert drift.pages(project)[proofs.PAGE] == page


def test_what_is_not_proved_is_shown_as_such(project: Project) -> None:
    """A row that cannot be built says what is out of reach."""
    lines = proofs.page(project).splitlines()
    (line,) = [line for line in lines if "pytorch-training:1.7.1" in line]
    assert "| not proved | - | out of reach: torch==1.7.1+cu110 from https://" in line


def test_what_is_proved_is_not_proved_again(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    """Unless what it is made from has changed; an engine is not even asked."""
    cell = next(cell for cell in project.cells if cell.id == ROW)
    now = PROOF.model_copy(update={"made_from": proofs.address(cell, project.root)})
    proofs.keep(cell, now, project)
    prove.prove(Session(project, {}), [cell], stand_ins=True, keep=False)
    assert capfd.readouterr().err == f"proved 2026-11-23: {ROW}\n"


def test_damaged_proofs_are_told(project: Project) -> None:
    """With what brings them back."""
    (project.root / "docs").mkdir()
    (project.root / proofs.KEPT).write_text('{"a": {}}')
    with pytest.raises(HfdlcError, match=r"docs/proved.json: is damaged(.|\n)*git checkout"):
        proofs.read(project.root)
