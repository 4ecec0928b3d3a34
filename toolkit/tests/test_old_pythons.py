"""The tests that need no model, on the oldest Pythons, where there are such interpreters with the 2021 packages.

An interpreter is found by its name on PATH or by pyenv. Its packages go into a virtual environment of the tests' own,
with what the 2021 locks hold of server packages; without a package index the tests are reported as not run.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = {
    "3.6": [
        "starlette==0.14.2",
        "uvicorn==0.14.0",
        "prometheus-client==0.11.0",
        "hypothesis<6.32",
        "httptools==0.2.0",
        "uvloop==0.14.0",
        "numpy==1.19.5",
        "pytest<7.1",
    ],
    "3.7": [
        "starlette==0.15.0",
        "uvicorn==0.14.0",
        "prometheus-client==0.11.0",
        "hypothesis<6.32",
        "httptools==0.2.0",
        "uvloop==0.15.2",
        "typing-extensions==3.7.4.3",
        "numpy==1.19.5",
        "pytest<7.1",
        "importlib-metadata<5",
    ],
}
ROOM = [
    "test_serving.py",
    "test_settings.py",
    "test_user_code.py",
    "test_user_code_requests.py",
    "test_requirements.py",
    "test_aws_scripts.py",
    "test_http.py",
    "test_content.py",
    "test_metrics.py",
]


def interpreter(version):
    """The path of a Python of this version; None when this machine has none."""
    candidates = [shutil.which("python" + version)]
    pyenv = shutil.which("pyenv")
    if pyenv:
        root = subprocess.run([pyenv, "root"], stdout=subprocess.PIPE).stdout.decode().strip()
        candidates += sorted(map(str, Path(root).glob("versions/{}.*/bin/python".format(version))))
    for candidate in filter(None, candidates):
        requested = subprocess.run(
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if requested.returncode == 0 and requested.stdout.decode().strip() == version:
            return candidate
    return None


@pytest.mark.parametrize("version", sorted(PACKAGES))
def test_server_works_on_old_python(version, tmp_path):
    """The same tests, the same server, the packages of 2021."""
    if sys.version_info < (3, 9):
        pytest.skip("started from a recent Python only")
    python = interpreter(version)
    if python is None:
        pytest.skip("no Python {} here: not run".format(version))
    room = tmp_path / "env"
    subprocess.run([python, "-m", "venv", str(room)], check=True)
    names = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST"))}
    pip = str(room / "bin" / "pip")
    # The pip that came with these Pythons chooses packages that they cannot import.
    subprocess.run(
        [pip, "install", "-q", "-U", "pip<22"],
        env=names,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    installed = subprocess.run(
        [pip, "install", "-q", *PACKAGES[version]],
        env=names,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if installed.returncode != 0:
        pytest.skip("the 2021 packages cannot be installed: not run: " + installed.stdout.decode()[-300:])
    here = Path(__file__).parent
    names["PYTHONPATH"] = str(here.parent / "src")
    done = subprocess.run(
        [
            str(room / "bin" / "python"),
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            *[str(here / name) for name in ROOM],
            "-k",
            "not standard_model and not model_is_served and not h11",
        ],
        env=names,
        cwd=str(here.parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout.decode()[-3000:]
