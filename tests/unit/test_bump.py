"""A new version is one command: the matrix keeps its comments and its order, or is not touched at all."""

from datetime import date
from pathlib import Path

import pytest

from hfdlc import project
from hfdlc.errors import HfdlcError, UserError
from hfdlc.generated import bump as versions
from hfdlc.project import Project
from matrices import TEXT, write

TODAY = date(2026, 12, 24)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path: Path) -> Project:
    """A project with a comment above its second release, and the real templates."""
    write(
        tmp_path, ("  - framework: pytorch 2.12.0", "  # The release before.\n  - framework: pytorch 2.12.0")
    )
    (tmp_path / "templates").symlink_to(ROOT / "templates")
    return project.find(tmp_path)


def bump(here: Project, wanted: str) -> str:
    return versions.bump(wanted, here.default, here, TODAY, lambda cell, there: None)


def test_bump_adds_a_release_and_keeps_the_rest(here: Project) -> None:
    """The new release has the new version and today's cutoff; taking it away again gives the old text."""
    before = (here.root / "matrix.yaml").read_text()
    output = bump(here, "transformers==5.24.0")
    after = (here.root / "matrix.yaml").read_text()
    added = after[after.index("  - framework") : after.index("  - framework", after.index("5.24.0"))]
    assert "transformers: 5.24.0" in added
    assert "cutoff: 2026-12-24" in added
    assert after.replace(added, "", 1) == before
    assert "+    transformers: 5.24.0" in output
    assert "added huggingface-pytorch-inference:2.13.0-transformers5.24.0-cpu-py311-debian12" in output
    assert len(project.find(here.root).cells) == len(here.cells) + 2


def test_bump_renders_the_new_dockerfiles(here: Project) -> None:
    """What is derived is written too."""
    bump(here, "pytorch==2.14.0")
    assert list(here.root.glob("images/huggingface-pytorch-inference/2.14.0-*/Dockerfile"))


def test_bump_that_cannot_be_locked_changes_nothing(here: Project) -> None:
    """The matrix is as before, and no folder is left."""
    before = (here.root / "matrix.yaml").read_text()

    def fail(cell: object, there: object) -> None:
        raise HfdlcError("the index does not have it")

    with pytest.raises(HfdlcError, match="the index does not have it"):
        versions.bump("transformers==5.999.0", here.default, here, TODAY, fail)
    assert (here.root / "matrix.yaml").read_text() == before
    assert not list(here.root.glob("images/*/*"))


@pytest.mark.parametrize(
    ("wanted", "output"),
    [
        ("transformers", "not NAME==VERSION"),
        ("transfromers==5.24.0", "did you mean 'transformers'?"),
        ("transformers>=5", "not NAME==VERSION"),
        ("tensorflow==2.22.0", "has pytorch"),
        ("transformers==5.23.0", "this release has transformers 5.23.0 already"),
    ],
)
def test_bump_to_an_invalid_version_is_an_error(here: Project, wanted: str, output: str) -> None:
    """And the matrix stays as it is."""
    with pytest.raises(UserError) as caught:
        bump(here, wanted)
    assert output in str(caught.value)
    assert TEXT.splitlines()[0] in (here.root / "matrix.yaml").read_text()


def test_releases_may_be_the_end_of_the_file(here: Project) -> None:
    """The last release ends with it."""
    file = here.root / "matrix.yaml"
    start, end = TEXT.index("releases:"), TEXT.index("frameworks:")
    file.write_text(TEXT[:start] + TEXT[end:] + TEXT[start:end])
    moved = project.find(here.root)
    versions.bump("transformers==4.58.0", moved.cells[2], moved, TODAY, lambda cell, there: None)
    assert [cell.transformers_version for cell in project.find(here.root).cells[2:]] == ["4.58.0", "4.57.6"]
