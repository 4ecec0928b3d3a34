"""The phases of the CI files, run as the service runs them, in a fresh clone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from hfdlc import project
from hfdlc.generated import ci
from hfdlc.oci.registry import Registry
from hfdlc.project import Project
from parts import Keys

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("regions", [None, "", " ", "eu-west-1 us-east-1"])
def test_make_uses_the_default_region_if_none_is_set(regions: str | None) -> None:
    """An unset variable of GitHub's arrives as an empty one."""
    environ = {name: value for name, value in os.environ.items() if name != "REGIONS"}
    environ |= {} if regions is None else {"REGIONS": regions}
    words = ["make", "-n", "ci-cell", "ci-publish", "CELL=a", "CELLS=a"]
    output = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=True).stdout
    names = (regions or "").split() or ["us-east-1"]
    assert f'publish "a" --build --region {names[0]}' in output
    assert f"publish a --from {names[0]} {' '.join(f'--region {name}' for name in names)}" in output


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
def test_ci_phases_run_in_a_fresh_clone(
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
    output = dict(line.split("=", 1) for line in listing.stdout.splitlines())
    assert built in {cell["id"] for cell in json.loads(output["cells"])}, listing.stderr
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
    assert {*kept["targets"]} == {"us-east-1", "eu-west-1"}
    again = _run('make ci-cell CELL="$CELL"', clone, environ)
    assert "is published from the same inputs: nothing to build" in again.stderr
