"""Programs: what their command lines and errors print."""

import logging
import sys

import pytest

from hfdlc.errors import CommandFailed
from hfdlc.process import run

INDEX = "https://reader:open-sesame@index.example/simple"


def test_passwords_are_neither_logged_nor_in_errors(caplog: pytest.LogCaptureFixture) -> None:
    """`hfdlc --verbose lock` printed that of the package index, which uv gets as an option."""
    script = "import sys; sys.exit(f'cannot reach {sys.argv[2]}')"
    with caplog.at_level(logging.INFO), pytest.raises(CommandFailed) as caught:
        run(
            [
                sys.executable,
                "-c",
                script,
                "--default-index",
                INDEX,
                "--index",
                "https://token@other.example/",
            ]
        )
    hidden = "https://reader:***@index.example/simple"
    assert f"--default-index {hidden} --index https://***@other.example/" in caplog.text
    assert f"cannot reach {hidden}" in str(caught.value)
    assert "open-sesame" not in caplog.text + str(caught.value) + caught.value.output
