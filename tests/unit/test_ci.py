"""The files of CI services: what is written into them, and which cells they build."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from hfdlc.cli import app
from hfdlc.generated import ci, drift
from hfdlc.project import Project
from parts import write_project

ROOT = Path(__file__).parents[2]
Yaml = dict[str, Any]


def _read(path: str) -> Yaml:
    found: Yaml = YAML(typ="safe", pure=True).load((ROOT / path).read_text())
    return found


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with locked cells, one of them for a GPU."""
    return write_project(tmp_path / "project")


def test_build_graph_has_unique_identifiers_in_order_of_dependency(repository: Project) -> None:
    """Layers are first; CodeBuild allows letters, digits and underscores."""
    builds = _read(ci.GRAPH)["batch"]["build-graph"]
    names = [build["identifier"] for build in builds]
    assert len(names) == len(set(names))
    for index, build in enumerate(builds):
        assert re.fullmatch(r"[A-Za-z0-9_]{1,128}", build["identifier"])
        assert set(build.get("depend-on", [])) <= set(names[:index])
        assert (ROOT / build["buildspec"]).is_file()
    cells = {build["env"]["variables"]["CELL"] for build in builds if build["buildspec"] == ci.CELL}
    assert cells == {cell.id for cell in ci.built(repository)}
    assert set(builds[-1]["env"]["variables"]["CELLS"].split()) == cells


def test_gpu_cells_run_on_machines_with_gpus() -> None:
    """In CodeBuild by the type of machine, in GitHub by the name of the runner."""
    for build in _read(ci.GRAPH)["batch"]["build-graph"]:
        if build["buildspec"] == ci.CELL:
            is_gpu = build["env"]["type"] == "LINUX_GPU_CONTAINER"
            assert is_gpu == ("-gpu-" in build["env"]["variables"]["CELL"])
    runs_on = _read(ci.WORKFLOW)["jobs"]["cells"]["runs-on"]
    assert "matrix.device == 'gpu' && vars.GPU_RUNNER" in runs_on


@pytest.mark.parametrize(("runner", "times"), [("", 0), ("gpu-large", 2)])
def test_github_builds_gpu_cells_only_with_gpu_runner(project: Project, runner: str, times: int) -> None:
    """The id of a GPU cell is in the lists of cells and of ids, or in neither."""
    (gpu,) = [cell for cell in project.cells if cell.cuda]
    environ = {"GPU_RUNNER": runner}
    outputs = ci.outputs(project, environ)
    assert outputs.count(gpu.id) == times
    assert project.default.id in outputs
    assert ci.without_runner(project, environ) == ([] if runner else [gpu])
    assert _read(ci.WORKFLOW)["env"]["GPU_RUNNER"] == "${{ vars.GPU_RUNNER }}"


@pytest.mark.parametrize("runner", ["", "gpu-large"])
def test_ci_list_warns_of_gpu_cells_that_are_not_built(
    project: Project, runner: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an annotation of GitHub's."""
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("GPU_RUNNER", runner)
    monkeypatch.setattr(sys, "argv", ["hfdlc", "ci", "--list"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    output = capsys.readouterr()
    assert not ended.value.code
    assert output.out.strip() == ci.outputs(project, {"GPU_RUNNER": runner}).strip()
    (gpu,) = [cell for cell in project.cells if cell.cuda]
    warning = f"::warning::not built, because GPU_RUNNER names no runner with a GPU: {gpu.id}"
    assert (warning in output.err) == (not runner)


def test_each_job_is_one_make_target() -> None:
    """What CI does can be repeated by hand."""
    specs = [_read(path)["phases"]["build"]["commands"] for path in (ci.LAYERS, ci.CELL, ci.PUBLISH)]
    jobs = _read(ci.WORKFLOW)["jobs"].values()
    runs = [[step["run"] for step in job["steps"] if "run" in step] for job in jobs]
    targets = (ROOT / "Makefile").read_text()
    for (command,) in [*specs, *runs]:
        words = command.split()
        target = next(word for word in words[1:] if not word.startswith("-"))
        assert words[0] == "make"
        assert f"\n{target}:" in targets


def test_failed_job_does_not_stop_independent_jobs() -> None:
    """Layers that failed skip no cell, a cell that failed stops no copy, and the run still fails."""
    jobs = _read(ci.WORKFLOW)["jobs"]
    for name in ("cells", "publish"):
        assert jobs[name]["if"] == "${{ !cancelled() && needs.list.result == 'success' }}"
        assert "continue-on-error" not in jobs[name]
    assert not jobs["cells"]["strategy"]["fail-fast"]
    batch = _read(ci.GRAPH)["batch"]
    assert batch["fast-fail"] is False
    for build in batch["build-graph"]:
        assert build.get("ignore-failure", False) == (build["buildspec"] == ci.LAYERS)


def test_last_job_uploads_the_release_records() -> None:
    """Its clone is deleted afterwards, so both services keep the folder that it wrote."""
    steps = _read(ci.WORKFLOW)["jobs"]["publish"]["steps"]
    assert steps[-1]["with"] == {"name": "releases", "path": "releases"}
    assert steps[-1]["if"] == "${{ !cancelled() }}"
    assert _read(ci.PUBLISH)["artifacts"]["files"] == ["releases/**/*"]


def test_check_reports_an_edited_ci_file(project: Project) -> None:
    """By its diff."""
    (project.root / "templates").symlink_to(ROOT / "templates")
    for path, text in ci.files(project).items():
        (project.root / path).parent.mkdir(parents=True, exist_ok=True)
        (project.root / path).write_text(text)
    clean = "\n".join(drift.differences(project))
    assert "buildspec" not in clean
    edited = project.root / ci.CELL
    edited.write_text(edited.read_text().replace("make setup", "pip install ."))
    report = "\n".join(drift.differences(project))
    assert "-      - pip install .\n+      - make setup" in report
