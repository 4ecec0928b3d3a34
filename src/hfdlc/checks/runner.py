"""Running the checks of an image."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hfdlc.build.session import Session
from hfdlc.checks import facts, secrets
from hfdlc.checks import report as reports
from hfdlc.checks.report import CHECKS, Report, checks
from hfdlc.checks.subject import Machine, Subject
from hfdlc.dockerfile.layers import NO_LOCKS
from hfdlc.engine import containers, images
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError
from hfdlc.locks.indexes import IndexConfig, index_config
from hfdlc.matrix.cells import Cell
from hfdlc.process import say
from hfdlc.project import Project
from hfdlc.state import State

NO_SKIPS: Mapping[str, str] = {}
# Only the parts of pytest that the checks need: no configuration of the caller, no output.
QUIET = ("terminal", "cacheprovider", "testinfra", "hypothesispytest", "faulthandler", "junitxml", "logging")


class _Plugin:
    """Passes the subject to the checks, and records their outcomes."""

    def __init__(self, subject: Subject, report: Report, skip: Mapping[str, str]) -> None:
        self._subject, self._report, self._skip = subject, report, skip

    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        """Skip checks, each with its reason."""
        for item in items:
            if reason := self._skip.get(item.originalname):
                item.add_marker(pytest.mark.skip(reason=reason))

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Pass the image under test to each check; the id of a test contains the cell's."""
        cell = self._subject.cell
        metafunc.parametrize("subject", [self._subject], ids=[cell.id], scope="session")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record one outcome; a failure during setup counts as a failure."""
        name = _name(report.nodeid, self._subject.cell)
        if report.skipped:
            why = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
            self._report.not_run[name] = why.removeprefix("Skipped: ")
        elif report.failed:
            self._report.failed[name] = _said(report)
        elif report.when == "call":
            self._report.passed.append(name)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module of checks that cannot be imported is a failure."""
        if report.failed:
            self._report.failed[report.nodeid] = str(report.longrepr)


def _name(nodeid: str, cell: Cell) -> str:
    """A check's name in a report, without the cell: `test_inference: test_round_trip[fill-mask]`."""
    name = nodeid.rpartition("/")[2].replace(".py::", ": ")
    return name.replace(f"[{cell.id}]", "").replace(f"{cell.id}-", "").replace(f"-{cell.id}", "")


def _said(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr)


def modules(cell: Cell) -> list[Path]:
    """The checks of a cell, by level: all, framework, type, device, layer groups; not each has a module."""
    levels = ("all", cell.framework, cell.type, cell.device, *cell.groups)
    return [file for level in levels if (file := CHECKS / f"test_{level}.py").is_file()]


@contextmanager
def subject(
    cell: Cell,
    project: Project,
    engine: Engine,
    state: State,
    sources: IndexConfig,
    image: str | None = None,
    *,
    gpus: bool = False,
    locks: Mapping[str, str] = NO_LOCKS,
) -> Iterator[Subject]:
    """The cell's image (or another one that is compared with the cell), with a container to look into.

    `locks`: see `layers.layers`.
    """
    name = image or cell.id
    built = images.image_of(name, engine)
    containers.remove_strays(engine)
    machine = Machine(sources, secrets.apt(), secrets.public())
    with containers.idle(name, engine, gpus=gpus) as container:
        read = facts.look(cell, container, built, facts.identity(built, engine, state))
        yield Subject(cell, project.root, state, engine, name, read, container, machine, gpus, locks)


def run(about: Subject, *, only: str | None = None, skip: Mapping[str, str] = NO_SKIPS) -> Report:
    """Run the checks of the subject's cell; `only` names some of them, as pytest's -k does.

    `skip`: checks that are not run, each with its reason.

    Raises KeyboardInterrupt on Ctrl-C, and HfdlcError if the checks did not finish or none was run.
    """
    date = datetime.now(UTC).isoformat(timespec="seconds")
    report = Report(about.cell.id, about.facts.digest, date, checks=checks())
    report.config_digest = about.facts.config_digest
    files = modules(about.cell)
    arguments = [f"--rootdir={files[0].parent}", "-c/dev/null", "--import-mode=importlib"]
    arguments += [*(f"-pno:{plugin}" for plugin in QUIET), *(["-k", only] if only else [])]
    status = pytest.main([*arguments, *map(str, files)], plugins=[_Plugin(about, report, skip)])
    if status == pytest.ExitCode.INTERRUPTED and not report.failed:
        raise KeyboardInterrupt
    if not (report.passed or report.failed or report.not_run):
        raise HfdlcError(f"no check was run on {about.cell.id}", location=only or "")
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not report.failed:
        raise HfdlcError(f"the checks of {about.cell.id} did not finish: pytest ended with {status}")
    return report


def check(session: Session, cells: Sequence[Cell], *, gpus: bool = False) -> None:
    """Compare built images with their cells, as `checked` does. Raises HfdlcError if a check fails."""
    require_passed(checked(session, cells, gpus=gpus))


def checked(
    session: Session, cells: Sequence[Cell], *, again: bool = False, gpus: bool = False
) -> list[Report]:
    """The reports of built images; `gpus`: with the machine's GPUs.

    What passed for the very same digest is not repeated, unless `again`, or unless there is a GPU now for
    what was not run without one.
    """
    state, engine, sources = session.state, session.engine, index_config(session.environ)
    shown = []
    for cell in cells:
        identity = facts.identity(images.image_of(cell.id, engine), engine, state)
        report = None if again else reports.remembered(identity, state)
        if report and gpus and report.needs_gpu:
            report = None
        if report and facts.remembered(session, cell)["size"] > cell.size:
            report = None  # its size budget was reduced since
        if not report:
            say(f"checking {cell.id}")
            with subject(cell, session.project, engine, state, sources, gpus=gpus) as about:
                report = run(about)
                if report.failed:
                    about.expect_unchanged()
            reports.remember(report, state)
        say(_summary(report))
        shown.append(report)
    return shown


def require_passed(shown: Sequence[Report]) -> None:
    """Raise HfdlcError if a check failed."""
    if failed := [report.cell for report in shown if report.failed]:
        raise HfdlcError(f"checks failed on {', '.join(failed)}", hint=f"hfdlc test {' '.join(failed)}")


def _summary(report: Report) -> str:
    """The names of checks that failed or were not run, and the number of those that passed."""
    lines = [f"{report.cell}: {len(report.passed)} checks passed ({report.date})"]
    lines += [f"  FAILED   {name}: {said}" for name, said in report.failed.items()]
    lines += [f"  not run  {name}: {why}" for name, why in report.not_run.items()]
    return "\n".join(lines)
