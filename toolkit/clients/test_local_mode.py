"""The SageMaker SDK 2.x in local mode with the images themselves, on an engine with a bridge network."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import environments
import pytest

sys.path.insert(0, str(environments.ROOT / "tools"))

import modern_engine
from hfdlc import project
from hfdlc.engine import context, detect
from hfdlc.errors import HfdlcError
from hfdlc.state import State

CLIENT = environments.Client("sagemaker 2.x", "client_local_mode.py", ["sagemaker<3"])
HFDLC = str(Path(sys.executable).with_name("hfdlc"))


@contextlib.contextmanager
def engine(folder):
    """The environment of an engine with a bridge network, and a function that adds what a command needs to use it.

    The machine's own engine where it has one, otherwise Docker 28.5 of `tools/`. NotRunError names what is missing.
    """
    if shutil.which("docker") is None:
        raise environments.NotRunError("no docker on PATH, which local mode starts")
    where = context.of_machine(os.environ)
    answer = detect.query(where)
    if answer and answer.is_usable:
        with contextlib.closing(where.client(60)) as client:
            bridged = bool(client.networks.list(names=["bridge"]))
        if bridged:
            yield dict(os.environ), list
            return
    with contextlib.ExitStack() as stack:
        try:
            started = stack.enter_context(modern_engine.running(State.of(os.environ), shared=[folder]))
        except HfdlcError as problem:
            raise environments.NotRunError(f"no engine with a bridge network: {problem.message}") from problem
        yield started.environment, started.inside


def test_local_mode(outcomes, tmp_path):
    """Training with one and two hosts, and an endpoint from what they trained."""
    default = project.find(environments.ROOT).default.id
    images = (default.replace("-inference:", "-training:"), default)
    shutil.copytree(str(environments.FOLDER / "local_mode"), str(tmp_path / "source"))
    try:
        command = environments.command(CLIENT)
        with engine(tmp_path) as (environ, inside):
            build = [HFDLC, "build", *images]
            built = subprocess.run(
                build, cwd=str(environments.ROOT), env=environ, capture_output=True, text=True, check=False
            )
            assert built.returncode == 0, built.stderr[-3000:]
            own = {name: value for name, value in environ.items() if not name.startswith(("HF_", "AWS_"))}
            own.update(
                HOME=str(tmp_path),
                LOCAL_MODE_FOLDER=str(tmp_path),
                LOCAL_MODE_TRAINING=images[0],
                LOCAL_MODE_INFERENCE=images[1],
            )
            done = subprocess.run(
                inside([*command, "local-mode"]),
                env=own, cwd=str(tmp_path), capture_output=True, text=True, timeout=600, check=False,
            )  # fmt: skip
    except environments.NotRunError as problem:
        outcomes.not_run(CLIENT, str(problem))
        pytest.skip(str(problem))
    checks = [line.split("\t") for line in done.stdout.splitlines() if line.count("\t") == 2]
    outcomes.add(CLIENT, environments.version_of(CLIENT), "local-mode", checks)
    assert [outcome for outcome, *_ in checks] == ["passed"] * 2, (
        f"{checks}\n{done.stdout[-6000:]}{done.stderr[-3000:]}"
    )


def test_missing_engine_is_the_reason_of_a_skip(outcomes, tmp_path, monkeypatch):
    """Without an engine, and without root to start one."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    with pytest.raises(
        environments.NotRunError, match="no engine with a bridge network: only root can"
    ), engine(tmp_path):
        raise AssertionError("an engine was found")
