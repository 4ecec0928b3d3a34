"""A unit test starts no program, except one of the images' own Python programs (`image/`)."""

import subprocess
import sys
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that starts another program, even if the code under test does it."""
    start = subprocess.Popen.__init__

    def checked(process: subprocess.Popen[str], argv: Any, *more: Any, **options: Any) -> None:
        if argv[0] != sys.executable:
            pytest.fail(f"a unit test started a program: {argv}")
        start(process, argv, *more, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", checked)
