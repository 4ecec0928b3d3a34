"""No test in this room can start a process."""

import subprocess
from typing import NoReturn

import pytest


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting one fails the test, whoever starts it."""

    def refuse(*words: object, **_: object) -> NoReturn:
        pytest.fail(f"a unit test started a process: {words}")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
