"""Running the checks of an image, and remembering what they showed for its digest."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hfdlc import containers, facts
from hfdlc.cells import Cell
from hfdlc.checks.subject import Subject
from hfdlc.engine import Engine
from hfdlc.errors import HfdlcError
from hfdlc.machine import PackageSources
from hfdlc.project import Project
from hfdlc.state import State, write_whole

CHECKS = Path(__file__).parent / "checks"


@dataclass
class Report:
    """What the checks of an image showed."""

    cell: str
    digest: str
    date: str
    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # check -> what it said
    not_run: dict[str, str] = field(default_factory=dict)  # check -> why

    def json(self) -> dict[str, Any]:
        """The same, for programs."""
        return asdict(self)


class _Plugin:
    """Gives the checks their subject, and writes down what they show."""

    def __init__(self, subject: Subject, report: Report) -> None:
        self._subject, self._report = subject, report

    @pytest.fixture(scope="session")
    def subject(self) -> Subject:
        """The image under test."""
        return self._subject

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take down one outcome; a failure while setting up counts as one."""
        name = report.nodeid.rpartition("/")[2].replace(".py::", ": ")
        if report.skipped:
            self._report.not_run[name] = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        elif report.failed:
            self._report.failed[name] = _said(report)
        elif report.when == "call":
            self._report.passed.append(name)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module of checks that does not import is a failure, never nothing."""
        if report.failed:
            self._report.failed[report.nodeid] = str(report.longrepr)


def _said(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr)


def modules(cell: Cell) -> list[Path]:
    """The checks of a cell, by level: all, framework, type, device; a level without checks has no module."""
    levels = ("all", cell.framework, cell.type, cell.device)
    return [file for level in levels if (file := CHECKS / f"test_{level}.py").is_file()]


@contextmanager
def subject(
    cell: Cell,
    project: Project,
    engine: Engine,
    state: State,
    sources: PackageSources,
    image: str | None = None,
) -> Iterator[Subject]:
    """The cell's image (or another one, held against the same cell), with a container to look into."""
    name = image or cell.id
    read = facts.read(cell, engine, name)
    with containers.idle(name, engine) as container:
        yield Subject(cell, project.matrix, project.root, state, engine, name, read, container, sources)


def run(about: Subject, *, only: str | None = None) -> Report:
    """Run the checks of the subject's cell; `only` names some of them, as pytest's -k does."""
    report = Report(about.cell.id, about.facts.digest, datetime.now(UTC).isoformat(timespec="seconds"))
    arguments = [str(module) for module in modules(about.cell)]
    # Nothing of the caller's pytest configuration, and nothing on the screen: the report is the outcome.
    arguments += ["--rootdir", str(CHECKS), "-c", "/dev/null", "-p", "no:terminal", "-p", "no:cacheprovider"]
    pytest.main([*arguments, *(["-k", only] if only else [])], plugins=[_Plugin(about, report)])
    if not (report.passed or report.failed or report.not_run):
        raise HfdlcError(f"no check was run on {about.cell.id}", where=only or "")
    return report


def remembered(digest: str, state: State) -> Report | None:
    """What the checks showed for this very digest, if they all passed."""
    file = _record(digest, state)
    if not file.is_file():
        return None
    report = Report(**json.loads(file.read_text()))
    return None if report.failed else report


def remember(report: Report, state: State) -> None:
    """Keep a report for its digest."""
    write_whole(_record(report.digest, state), json.dumps(report.json(), indent=2) + "\n")


def _record(digest: str, state: State) -> Path:
    return state.root / "checks" / f"{digest.replace(':', '-')}.json"
