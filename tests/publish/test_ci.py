"""The CI files: derived, whole, and each phase run as the service would run it, in a fresh clone."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from hfdlc import project
from hfdlc.build import builder
from hfdlc.generated import ci, drift
from hfdlc.oci.registry import Registry
from hfdlc.project import Project
from parts import Hfdlc, Keys, Small, fine

ROOT = Path(__file__).parents[2]
Yaml = dict[str, Any]


def _read(path: str) -> Yaml:
    found: Yaml = YAML(typ="safe", pure=True).load((ROOT / path).read_text())
    return found


def test_the_graph_is_one(repository: Project) -> None:
    """Identifiers are CodeBuild's letters and unlike, what is waited for is there, layers are first."""
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


def test_gpu_cells_get_gpus() -> None:
    """CodeBuild's machines with one, and the runners that GitHub is told."""
    for build in _read(ci.GRAPH)["batch"]["build-graph"]:
        if build["buildspec"] == ci.CELL:
            is_gpu = build["env"]["type"] == "LINUX_GPU_CONTAINER"
            assert is_gpu == ("-gpu-" in build["env"]["variables"]["CELL"])
    runs_on = _read(ci.WORKFLOW)["jobs"]["cells"]["runs-on"]
    assert "matrix.device == 'gpu' && vars.GPU_RUNNER" in runs_on


def test_gpu_cells_without_a_runner_are_said_to_be_not_built(hfdlc: Hfdlc, small: Small) -> None:
    """None of them is in GitHub's lists; with GPU_RUNNER all are."""
    cell = next(cell for cell in small.cells if cell.cuda)
    ended = fine(hfdlc("ci", "--list", environ={"GPU_RUNNER": ""}))
    assert cell.id not in ended.stdout
    assert small.project.default.id in ended.stdout
    assert f"::warning::not built, GPU_RUNNER names no runner with a GPU: {cell.id}" in ended.stderr
    ended = fine(hfdlc("ci", "--list", environ={"GPU_RUNNER": "gpu-large"}))
    assert (ended.stdout.count(cell.id), "not built" in ended.stderr) == (2, False)
    assert _read(ci.WORKFLOW)["env"]["GPU_RUNNER"] == "${{ vars.GPU_RUNNER }}"


def test_each_job_is_one_command() -> None:
    """A name of make's, with variables: what CI does can be done by hand."""
    specs = [_read(path)["phases"]["build"]["commands"] for path in (ci.LAYERS, ci.CELL, ci.PUBLISH)]
    jobs = _read(ci.WORKFLOW)["jobs"].values()
    runs = [[step["run"] for step in job["steps"] if "run" in step] for job in jobs]
    targets = (ROOT / "Makefile").read_text()
    for (command,) in [*specs, *runs]:
        words = command.split()
        target = next(word for word in words[1:] if not word.startswith("-"))
        assert words[0] == "make"
        assert f"\n{target}:" in targets


def test_a_failure_costs_what_depends_on_it_alone() -> None:
    """Layers that failed skip no cell, a cell that failed stops no copy, and all stays red."""
    jobs = _read(ci.WORKFLOW)["jobs"]
    for name in ("cells", "publish"):
        assert jobs[name]["if"] == "${{ !cancelled() && needs.list.result == 'success' }}"
        assert "continue-on-error" not in jobs[name]
    assert not jobs["cells"]["strategy"]["fail-fast"]
    batch = _read(ci.GRAPH)["batch"]
    assert batch["fast-fail"] is False
    for build in batch["build-graph"]:
        assert build.get("ignore-failure", False) == (build["buildspec"] == ci.LAYERS)


def test_the_record_leaves_the_last_job() -> None:
    """Its clone is thrown away: both services keep the folder that it has written."""
    steps = _read(ci.WORKFLOW)["jobs"]["publish"]["steps"]
    assert steps[-1]["with"] == {"name": "releases", "path": "releases"}
    assert steps[-1]["if"] == "${{ !cancelled() }}"
    assert _read(ci.PUBLISH)["artifacts"]["files"] == ["releases/**/*"]


@pytest.mark.parametrize("regions", [None, "", " ", "eu-west-1 us-east-1"])
def test_regions_that_are_not_set_are_the_default_one(regions: str | None) -> None:
    """An unset variable of GitHub's arrives as an empty one."""
    environ = {name: value for name, value in os.environ.items() if name != "REGIONS"}
    environ |= {} if regions is None else {"REGIONS": regions}
    words = ["make", "-n", "ci-cell", "ci-publish", "CELL=a", "CELLS=a"]
    told = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=True).stdout
    names = (regions or "").split() or ["us-east-1"]
    assert f'publish "a" --build --region {names[0]}' in told
    assert f"publish a --from {names[0]} {' '.join(f'--region {name}' for name in names)}" in told


def test_an_edited_ci_file_is_found(tmp_path: Path, small: Small) -> None:
    """`hfdlc check` covers them."""
    (small.project.root / "templates").symlink_to(ROOT / "templates")
    for path, text in ci.files(small.project).items():
        (small.project.root / path).parent.mkdir(parents=True, exist_ok=True)
        (small.project.root / path).write_text(text)
    clean = "\n".join(drift.differences(small.project))
    assert "buildspec" not in clean
    edited = small.project.root / ci.CELL
    edited.write_text(edited.read_text().replace("make setup", "pip install ."))
    told = "\n".join(drift.differences(small.project))
    assert "-      - pip install .\n+      - make setup" in told


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What is committed, and nothing else; the environment of tools is this one's, to spare minutes."""
    target = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{ROOT}", str(target)], check=True)
    (target / ".venv").mkdir()
    (target / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (target / ".venv" / "ready").touch()  # make does not touch this one's, then
    return target


def _run(command: str, clone: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """As the service does: a shell in the clone, with the variables of the build."""
    return subprocess.run(
        ["bash", "-ec", command],
        cwd=clone,
        env={**os.environ, "HFDLC_VIA": "", **environ},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.engine
def test_the_phases_run_in_a_fresh_clone(
    clone: Path, built: str, registry: str, aws: dict[str, str], keys: Keys, repository: Project
) -> None:
    """For the default cell: list, layers, cell, publish; then once more, and nothing is built or sent."""
    if not shutil.which("make"):
        pytest.skip("there is no make")
    where = [f"us-east-1={registry}/one", f"eu-west-1={registry}/two"]
    environ = {
        **aws,
        "COSIGN_KEY": keys.private,
        "COSIGN_PASSWORD": "of a test",
        "REGIONS": "us-east-1 eu-west-1",
        "REGISTRY": " ".join(where),
        "CELL": built,
        "CELLS": built,
        "HFDLC_CACHE": f"{registry}/cache",
    }
    listing = _run("make -s ci-list", clone, environ)
    told = dict(line.split("=", 1) for line in listing.stdout.splitlines())
    assert built in {cell["id"] for cell in json.loads(told["cells"])}, listing.stderr
    for spec in (ci.LAYERS, ci.CELL, ci.PUBLISH):
        for phase in YAML(typ="safe", pure=True).load((clone / spec).read_text())["phases"].values():
            for command in phase["commands"]:
                ended = _run(command, clone, environ)
                assert ended.returncode == 0, f"{spec}: {command}\n{ended.stderr}"
    cell = project.find(clone).default
    digests = {Registry(f"{registry}/{name}").head(cell.repository, cell.tag) for name in ("one", "two")}
    assert len(digests) == 1
    assert None not in digests
    kept = json.loads((clone / "releases" / cell.repository / f"{cell.tag}.json").read_text())
    assert {*kept["places"]} == {"us-east-1", "eu-west-1"}
    again = _run('make ci-cell CELL="$CELL"', clone, environ)
    assert "is published from the same inputs: nothing to build" in again.stderr


@pytest.mark.engine
def test_a_changed_cell_is_refused_before_it_is_built(
    small: Small, hfdlc: Hfdlc, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--build` looks first; a tag from other inputs is never overwritten."""
    from hfdlc.publish import builds, publisher
    from hfdlc.publish.targets import parse

    cell = small.project.default
    small.image(cell)
    fine(hfdlc("publish", "--registry", registry))
    (target,) = parse([], [registry])
    assert builds.published_inputs(target, cell) == {"Dockerfile": "abc"}
    other = next(cell for cell in small.cells if cell.type == "training")
    assert builds.published_inputs(target, other) is None
    monkeypatch.setattr(builder, "inputs_of", lambda *_: {cell.id: {"Dockerfile": "new"}})
    with pytest.raises(publisher.Differs, match=r"from other inputs \(Dockerfile\): a tag never moves"):
        builds.built(small.project, [cell], os.environ, target)
