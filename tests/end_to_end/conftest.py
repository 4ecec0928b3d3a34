"""The commands, run as a user runs them."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from hfdlc.build.session import Session
from training_jobs import HFDLC, PYTORCH, ROOT, Script, build_both, script_of

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of what is needed to build, that a test may change."""
    for part in ("image", "images", "templates", "toolkit"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", ".venv"))
    for part in ("matrix.yaml", ".dockerignore"):
        shutil.copy(ROOT / part, tmp_path / part)
    return tmp_path


@pytest.fixture
def hfdlc(clone: Path) -> Command:
    """Run `hfdlc WORDS` in the clone, with changes to the environment, and give what it said."""

    def run(*words: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [HFDLC, *words],
            cwd=clone,
            env={**os.environ, **(environ or {})},
            capture_output=True,
            text=True,
            timeout=900,
        )

    return run


@pytest.fixture
def script(tmp_path: Path, session: Session) -> Script:
    """The words of `hfdlc train` for a script of so many lines, with data that it does not look at."""
    build_both(session, PYTORCH)
    return script_of(PYTORCH, tmp_path)
