"""Commands print JSON for programs and text for people; an error has a message and an exit code."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
import typer
from docker.errors import APIError

from hfdlc.build.builder import CellsFailed
from hfdlc.checks import runner
from hfdlc.checks.report import Report
from hfdlc.cli import app
from hfdlc.engine import detect
from hfdlc.errors import HfdlcError
from matrices import write

KEYS = [
    "id",
    "repository",
    "tag",
    "framework",
    "framework_version",
    "transformers_version",
    "datasets_version",
    "type",
    "device",
    "python",
    "cuda",
    "os",
    "state",
]


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the program as its console script does, and give its exit code."""
    monkeypatch.setattr(sys, "argv", ["hfdlc", *words])
    with pytest.raises(SystemExit) as ended:
        app.main()
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_gives_the_documented_keys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON is on standard output, alone; CUDA is null where there is none."""
    assert run(monkeypatch, "list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [list(row) for row in rows] == [KEYS] * 3
    assert [row["cuda"] for row in rows] == [None, "cu130", None]
    assert {row["state"] for row in rows} == {"unlocked"}


def test_plan_selects_by_glob_and_axis(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A glob and an axis together take what both name."""
    assert run(monkeypatch, "plan", "*:2.13*", "--device", "gpu", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["bake"]["target"]) == [
        "huggingface-pytorch-inference-2-13-0-transformers5-23-0-gpu-py311-cu130-debian12"
    ]


def test_selection_without_a_match_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The filter is repeated on standard error, and nothing is on standard output."""
    assert run(monkeypatch, "list", "--transformers", ">=9", "--json") == 2
    report = capsys.readouterr()
    assert report.out == ""
    assert report.err.startswith("error: no cell matches --transformers '>=9'")


def test_wrong_matrix_exits_with_2_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    """The first word is where the mistake is."""
    write(folder, ("    os:", "    osx:"))
    assert run(monkeypatch, "list") == 2
    report = capsys.readouterr().err
    assert report.startswith("error: matrix.yaml:3:5: missing key 'os'\nmatrix.yaml:7:5: unknown key 'osx'")
    assert "Traceback" not in report


def test_facts_of_several_cells_are_not_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before an engine is used: the documented output is one object."""
    assert run(monkeypatch, "facts", "*", "--json") == 2
    assert "*: selects several cells\n  allowed: one cell with --json" in capsys.readouterr().err


def test_reports_with_failed_checks_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code says that a check failed, and standard output which one."""
    report = Report("a-cell", "sha256:1", "2025-01-01", failed={"test_all: test_port": "no port"})
    monkeypatch.setattr(runner, "checked", lambda *_, **__: [report])
    assert run(monkeypatch, "test", "--json") == 1
    streams = capsys.readouterr()
    assert json.loads(streams.out) == [report.json()]
    assert "checks failed on a-cell" in streams.err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """With --debug the error is raised as it is."""
    (folder / "matrix.yaml").unlink()
    monkeypatch.setattr(sys, "argv", ["hfdlc", "--debug", "list"])
    with pytest.raises(HfdlcError, match=r"no matrix\.yaml in this folder"):
        app.main()


def test_building_without_a_lock_fails_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, and the command that makes the lock."""
    assert run(monkeypatch, "build") == 1
    assert "hint: hfdlc lock huggingface-pytorch-inference:2.13.0" in capsys.readouterr().err


def test_help_lists_commands_in_panels(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    panels = [line.removesuffix(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert panels == ["Options", *app.PANELS]
    named = {line.split()[0] for line in lines if line.startswith("  ") and not line.startswith("   ")}
    assert {command.name or "" for command in typer.main.get_group(app.app).commands.values()} <= named


@pytest.mark.parametrize("command", [("train", "*", "--data", "."), ("serve",)])
def test_wrong_variable_ends_with_2_and_without_its_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """Before an engine is used."""
    Path("train.py").touch()
    script = ["--script", "train.py"] if command[0] == "train" else []
    assert run(monkeypatch, *command, *script, "--env", "HF TOKEN=hf_secret") == 2
    said = capsys.readouterr().err
    assert "--env: not an environment variable" in said
    assert "hf_secret" not in said


def test_serving_a_missing_model_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before an engine is used."""
    assert run(monkeypatch, "serve", "*:2.12.0-*", "models/none") == 2
    assert "models/none: no such model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no script is given"),
        (("--script", "train.py", "--source-dir", "."), "two scripts are given"),
        (("--source-dir", ".", "--entry-point", "/etc/hostname"), "outside the source folder"),
        (("--script", "train.py", "--shm-size", "much"), "not a size"),
    ],
)
def test_wrong_training_option_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    """Before an engine is used."""
    Path("train.py").touch()
    assert run(monkeypatch, "train", "*", "--data", ".", *words) == 2
    assert message in capsys.readouterr().err


def test_engine_that_refuses_to_prune_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another program is doing it; the error has the reason and the address, and no traceback."""

    def refuse(*_: object) -> NoReturn:
        raise APIError("409", explanation="a prune operation is already running")

    closed: list[bool] = []
    engine = SimpleNamespace(host="unix:///a", close=lambda: closed.append(True))
    monkeypatch.setattr(detect, "ensure", lambda *_: engine)
    monkeypatch.setattr(detect, "prune", refuse)
    assert run(monkeypatch, "engine", "prune") == 1
    assert "unix:///a: a request failed: a prune operation is already running" in capsys.readouterr().err
    assert closed


def test_full_disk_ends_with_1_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device", "matrix.yaml")

    monkeypatch.setattr("hfdlc.project.find", full)
    assert run(monkeypatch, "check") == 1
    error = capsys.readouterr().err
    assert "error: [Errno 28] No space left on device: 'matrix.yaml'" in error
    assert "Traceback" not in error


def test_dry_run_of_publish_does_not_build(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "publish", "--build", "--dry-run", "--registry", "127.0.0.1:1") == 2
    assert "--build and --dry-run" in capsys.readouterr().err


def test_failed_checks_do_not_hide_cells_that_were_not_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def not_built(*_: object, **__: object) -> NoReturn:
        raise CellsFailed("1 of 2 cells failed\nno space", fine=[], hint="hfdlc build a")

    def failed_checks(*_: object) -> NoReturn:
        raise HfdlcError("checks failed: pip check")

    monkeypatch.setattr("hfdlc.build.builder.build", not_built)
    monkeypatch.setattr(runner, "check", failed_checks)
    assert run(monkeypatch, "build", "--check") == 1
    error = capsys.readouterr().err
    assert "1 of 2 cells failed\nno space\nchecks failed: pip check" in error
