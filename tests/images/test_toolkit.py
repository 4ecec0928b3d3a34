"""The toolkit's own tests, inside the image: its Python, its packages, its processor's threads."""

import subprocess
import sys
from pathlib import Path

from hfdlc import containers
from hfdlc.engine import Engine
from hfdlc.state import State

TOOLKIT = Path(__file__).parents[2] / "toolkit"
TOOLS = ("pytest", "hypothesis")


def tools(state: State, python: str) -> Path:
    """A folder with what the tests need and the image must not hold."""
    folder = state.folder(f"toolkit-tests-py{python}")
    if not (folder / "pytest").is_dir():
        argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(folder)]
        argv += ["--only-binary", ":all:", "--python-version", python, *TOOLS]
        subprocess.run(argv, check=True)
    return folder


def test_the_toolkits_tests_pass_inside_the_image(built: str, used_engine: Engine, state: State) -> None:
    """Its tests ran there, and none failed."""
    mounts = {
        str(tools(state, "3.11")): {"bind": "/tools", "mode": "ro"},
        str(TOOLKIT): {"bind": "/toolkit", "mode": "ro"},
    }
    with containers.idle(built, used_engine, mounts) as container:
        status, output = container.exec_run(
            ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider"],
            workdir="/toolkit",
            environment={"PYTHONPATH": "/tools", "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis"},
        )
    assert isinstance(output, bytes)
    told = output.decode()
    print(told)
    assert status == 0, told
    assert " passed" in told
