"""Running checks: what counts as passed, failed and not run, and what is remembered."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hfdlc.checks import report as reports
from hfdlc.checks import runner
from hfdlc.checks.report import Report
from hfdlc.checks.subject import Machine, Subject
from hfdlc.errors import HfdlcError
from hfdlc.locks.indexes import IndexConfig
from hfdlc.project import find
from hfdlc.state import State

CELL = find(Path(__file__)).default


class Facts:
    """All that a report asks of them."""

    digest = "sha256:1"
    config_digest = "sha256:2"


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> Report:
    """The report of a module of checks."""
    module = folder / "test_all.py"
    module.write_text(f"import pytest\n{text}")
    monkeypatch.setattr(runner, "modules", lambda cell: [module])
    monkeypatch.delitem(sys.modules, "test_all", raising=False)  # another test's
    anything: Any = None
    machine = Machine(IndexConfig())
    about = Subject(CELL, folder, State(folder), anything, CELL.id, anything, anything, machine)
    facts: Any = Facts()
    return runner.run(replace(about, facts=facts))


def test_report_has_passed_failed_and_skipped_checks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each outcome has its place, with what the check said."""
    text = """
def test_good(subject): pass
def test_bad(subject): assert 1 == 2, "one is not two"
def test_later(subject): pytest.skip("no GPU in reach")
@pytest.fixture
def broken(): raise RuntimeError("no server")
def test_set_up(subject, broken): pass
"""
    report = run(monkeypatch, tmp_path, text)
    assert report.passed == ["test_all: test_good"]
    assert report.not_run == {"test_all: test_later": "no GPU in reach"}
    assert set(report.failed) == {"test_all: test_bad", "test_all: test_set_up"}
    assert "one is not two" in report.failed["test_all: test_bad"]
    assert "no server" in report.failed["test_all: test_set_up"]


def test_report_lists_checks_skipped_for_want_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the reason that the checks of GPU images give; any other reason is another matter."""
    (reason,) = re.findall(r'pytest\.skip\("(.*GPU.*)"\)', (reports.CHECKS / "test_gpu.py").read_text())
    text = f"""
def test_product(subject): pytest.skip({reason!r})
def test_network(subject): pytest.skip("no network")
"""
    assert run(monkeypatch, tmp_path, text).needs_gpu == ["test_all: test_product"]


def test_node_id_contains_the_cell_and_report_name_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Checks of different images have different ids; a report names the cell once."""
    text = f"""
@pytest.mark.parametrize("task", ["fill-mask"])
def test_it(subject, task, request): assert "{CELL.id}" in request.node.nodeid
"""
    assert run(monkeypatch, tmp_path, text).passed == ["test_all: test_it[fill-mask]"]


def test_interrupted_checks_raise_keyboard_interrupt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Checks that were interrupted never count as passed."""
    with pytest.raises(KeyboardInterrupt):
        run(
            monkeypatch,
            tmp_path,
            "def test_good(subject): pass\ndef test_long(subject): raise KeyboardInterrupt",
        )


def test_checks_that_do_not_import_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A module of checks that is broken fails, and says where."""
    assert "no_such_module" in "".join(run(monkeypatch, tmp_path, "import no_such_module").failed.values())


def test_run_without_checks_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing run is nothing shown."""
    with pytest.raises(HfdlcError, match="no check was run"):
        run(monkeypatch, tmp_path, "")


def test_cell_has_checks_by_framework_type_device_and_layer_group() -> None:
    """A cell has the checks of all images, of its framework, type and device, and of its layer groups."""
    names = [module.name for module in runner.modules(CELL)]
    general = ["test_all.py", "test_pytorch.py", "test_inference.py", "test_cpu.py"]
    groups = ["test_grammar.py", "test_peft.py"]
    assert names == [*general, "test_openvino.py", *groups]
    without = replace(CELL, layer_groups=tuple(g for g in CELL.layer_groups if g.name != "openvino"))
    assert [module.name for module in runner.modules(without)] == [*general, *groups]


@pytest.fixture
def passed() -> Report:
    """A report of now."""
    return Report(
        CELL.id, "sha256:1", "2026-11-23T09:00:00+00:00", ["test_all: test_os"], checks=reports.checks()
    )


def test_passed_report_is_remembered(passed: Report, tmp_path: Path) -> None:
    """The same checks of the same image need not be repeated."""
    reports.remember(passed, State(tmp_path))
    assert reports.remembered("sha256:1", State(tmp_path)) == passed
    assert reports.remembered("sha256:2", State(tmp_path)) is None


def test_failed_outdated_or_unreadable_report_is_not_remembered(passed: Report, tmp_path: Path) -> None:
    """A failure is repeated; so is what older checks have shown, and what cannot be read."""
    for report in (
        replace(passed, failed={"test_all: test_os": "debian13"}),
        replace(passed, checks="older"),
    ):
        reports.remember(report, State(tmp_path))
        assert reports.remembered("sha256:1", State(tmp_path)) is None
    for text in ("", "{}", '{"unknown": 1}'):
        (tmp_path / "checks" / "sha256-1.json").write_text(text)
        assert reports.remembered("sha256:1", State(tmp_path)) is None
