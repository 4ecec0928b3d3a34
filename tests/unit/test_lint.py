"""The lint rules that the project adds to those of its tools."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOLKIT = Path(__file__).parents[2] / "toolkit"


@pytest.mark.parametrize("module", ["content/new.py", "runtimes/torch.py", "tasks/generation.py"])
def test_any_in_an_annotation_of_the_toolkit_is_reported(module: str) -> None:
    """`Any` says nothing to a reader; annotations.py has the names that may contain it."""
    code = '"""."""\n\nfrom typing import Any\n\n\ndef _read(value: Any) -> Any:\n    return value\n'
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise"]
    name = f"src/hf_inference_toolkit/{module}"
    found = subprocess.run(
        [*command, "--stdin-filename", name, "-"], cwd=TOOLKIT, input=code, capture_output=True, text=True
    )
    assert found.returncode == 1
    assert "TID251" in found.stdout
    assert "ANN401" in found.stdout
    assert "annotations.py" in found.stdout
