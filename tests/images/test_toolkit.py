"""The toolkit's own tests, inside the image: its Python, its packages, its processor's threads."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import toolkit_run
from hfdlc.build import builder
from hfdlc.build.session import Session
from hfdlc.engine import containers
from hfdlc.engine.detect import Engine
from hfdlc.matrix.selector import Filter, select
from hfdlc.project import Project
from hfdlc.state import State

pytestmark = pytest.mark.engine

TOOLKIT = Path(__file__).parents[2] / "toolkit"
TOOLS = ("pytest", "hypothesis", "pytest-xdist")


def tools(state: State, python: str) -> Path:
    """A folder with what the tests need and the image must not hold."""
    folder = state.folder(f"toolkit-tests-py{python}")
    if not (folder / "xdist").is_dir():
        argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(folder)]
        argv += ["--only-binary", ":all:", "--python-version", python, *TOOLS]
        subprocess.run(argv, check=True)
    return folder


def check(image: str, python: str, engine: Engine, state: State) -> None:
    """Run the toolkit's tests in the image: none fails, and none is skipped for an unknown reason."""
    mounts = {
        str(tools(state, python)): {"bind": "/tools", "mode": "ro"},
        str(TOOLKIT): {"bind": "/toolkit", "mode": "ro"},
    }
    with containers.idle(image, engine, mounts) as container:
        status, output = container.exec_run(
            # Two processes: most tests wait for a server or use one core.
            ["python", "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-n2", "--dist=loadfile"],
            workdir="/toolkit",
            environment={
                "PYTHONPATH": "/tools",
                "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
                "COLUMNS": "1000",  # reasons are cut to the width of the screen
            },
        )
    assert isinstance(output, bytes)
    print(output.decode())
    assert status == 0
    for line in toolkit_run.skipped(output.decode()):
        warnings.warn(f"not run in {image}: {line}", stacklevel=1)


def test_the_toolkits_tests_pass_inside_the_image(built: str, used_engine: Engine, state: State) -> None:
    """With PyTorch."""
    check(built, "3.11", used_engine, state)


@pytest.mark.releases
def test_the_toolkits_tests_pass_with_tensorflow(
    repository: Project, session: Session, used_engine: Engine, state: State
) -> None:
    """Today's, on a processor."""
    (cell,) = select(repository.cells, Filter(("*-tensorflow-inference:2.21.0-*-cpu-py311-*",)))
    builder.build(session, [cell])
    check(cell.id, cell.python, used_engine, state)
