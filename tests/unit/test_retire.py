"""Old releases leave the matrix whole, and leave a record."""

import json
from datetime import date
from pathlib import Path

import pytest

from hfdlc import project
from hfdlc.errors import Problems, UserError
from hfdlc.generated import retire as releases
from hfdlc.generated import text
from hfdlc.matrix.selector import Filter, select
from hfdlc.project import Project
from matrices import TEXT, write

TODAY = date(2026, 12, 24)
ROOT = Path(__file__).parents[2]
OLD = "huggingface-pytorch-inference:2.12.0-transformers4.57.6-cpu-py310-debian12"
RULE = "  - {when: {device: cu130}, needs: {framework_version: "


@pytest.fixture(autouse=True)
def no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test starts no program: the commit is that of a fixture."""
    monkeypatch.setattr(Project, "commit", lambda here: "abc")


def clone(folder: Path, *changes: tuple[str, str]) -> Project:
    """A project with a comment above its second release, Dockerfiles, and the record of a published image."""
    comment = ("  - framework: pytorch 2.12.0", "  # The release before.\n  - framework: pytorch 2.12.0")
    rule = (TEXT[TEXT.index("rules:") : TEXT.index("drivers:")], "")
    write(folder, comment, rule, *changes)
    (folder / "templates").symlink_to(ROOT / "templates")
    (folder / "docs").mkdir()
    here = project.find(folder)
    for cell in here.cells:
        (folder / cell.folder).mkdir(parents=True)
        (folder / cell.folder / "Dockerfile").write_text("FROM x\n")
    (folder / "releases").mkdir()
    (folder / "releases" / "record.json").write_text("{}")
    return here


def retire(here: Project, *patterns: str) -> list[str]:
    return releases.retire(select(here.cells, Filter(patterns)), here, TODAY)


def test_release_is_removed_and_recorded(tmp_path: Path) -> None:
    """Comments, other releases and the records of published images stay."""
    here = clone(tmp_path)
    before = (tmp_path / "matrix.yaml").read_text()
    start, end = text.lines_of(before, here, 1)
    assert retire(here, OLD) == [OLD]
    after = (tmp_path / "matrix.yaml").read_text()
    lines = before.splitlines(keepends=True)
    assert after == "".join(lines[:start] + lines[end:])
    assert "# The release before." in after
    assert not (tmp_path / here.cells[-1].folder).exists()
    assert (tmp_path / here.default.folder / "Dockerfile").is_file()
    assert json.loads((tmp_path / "docs/retired.json").read_text()) == {
        OLD: {"retired": "2026-12-24", "commit": "abc"}
    }
    page = (tmp_path / "docs/available_images.md").read_text()
    assert f"| `{OLD}` | 2026-12-24 | abc |" in page
    assert (tmp_path / "releases" / "record.json").is_file()
    assert len(project.find(tmp_path).cells) == len(here.cells) - 1


@pytest.mark.parametrize(
    ("patterns", "output"),
    [
        (("*2.13.0*gpu*",), "these were not selected: huggingface-pytorch-inference:2.13.0-"),
        (("*2.13.0*",), "the release of the default cell cannot be retired"),
        (("*9.9.9*",), "no cell matches"),
    ],
)
def test_what_cannot_be_retired_changes_nothing(tmp_path: Path, patterns: list[str], output: str) -> None:
    here = clone(tmp_path)
    before = (tmp_path / "matrix.yaml").read_text()
    with pytest.raises(UserError) as caught:
        retire(here, *patterns)
    assert output in str(caught.value)
    assert (tmp_path / "matrix.yaml").read_text() == before
    assert not (tmp_path / "docs/retired.json").exists()


def test_rule_that_loses_its_last_release_is_named_with_its_line(tmp_path: Path) -> None:
    """The line is that of the file as it is, which has the release."""
    rule = "rules:\n  - {when: {transformers: <5}, needs: {python: <3.11}, reason: x}\n"
    here = clone(tmp_path, ("bases:\n", f"{rule}bases:\n"))
    before = (tmp_path / "matrix.yaml").read_text()
    number = before.splitlines().index("rules:") + 2
    with pytest.raises(Problems) as caught:
        retire(here, OLD)
    assert str(caught.value).startswith(f"matrix.yaml:{number}:5: this rule matches no cell")
    assert (tmp_path / "matrix.yaml").read_text() == before
