"""A unit test starts no program, except one of the images' own Python programs (`image/`)."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def inside() -> ModuleType:
    """`image/train.py`, which runs in images."""
    spec = importlib.util.spec_from_file_location("inside", ROOT / "image" / "train.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that starts another program, even if the code under test does it."""
    start = subprocess.Popen.__init__

    def checked(process: subprocess.Popen[str], argv: Any, *more: Any, **options: Any) -> None:
        if argv[0] != sys.executable:
            pytest.fail(f"a unit test started a program: {argv}")
        start(process, argv, *more, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", checked)
