"""`tools/gpu_check.sh` on machines that it cannot check: it says why, within a second or two."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(folder: Path, modules: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the script with a Python that has these modules."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}:$PYTHONPATH" exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    command = [str(ROOT / "tools/gpu_check.sh"), str(python)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_python_without_torch_is_named(tmp_path: Path) -> None:
    ended = run(tmp_path, {})
    assert ended.returncode == 1
    assert f"error: {tmp_path}/python has no PyTorch and transformers" in ended.stderr


def test_machine_without_a_gpu_is_an_error(tmp_path: Path) -> None:
    """Skipped tests would look like passed ones."""
    torch = "__version__ = '2'\nclass cuda:\n    is_available = staticmethod(lambda: False)\n"
    ended = run(tmp_path, {"torch": torch, "transformers": "__version__ = '5'\n"})
    assert ended.returncode == 1
    assert "error: PyTorch sees no GPU" in ended.stderr


def test_missing_packages_are_named(tmp_path: Path) -> None:
    torch = "__version__ = '2'\nclass cuda:\n    is_available = staticmethod(lambda: True)\n"
    torch += "    get_device_name = staticmethod(lambda: 'a GPU')\n"
    ended = run(tmp_path, {"torch": torch, "transformers": "__version__ = '5'\n"})
    assert ended.returncode == 1
    assert "a GPU, PyTorch 2, transformers 5" in ended.stdout
    assert "hint: on a machine with network: tools/gpu_check.sh --wheels VERSION" in ended.stderr


def test_steps_are_not_run_when_the_time_is_over(tmp_path: Path) -> None:
    """The step after the one that was ended had no limit: `timeout 0` is none."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\ncase $1 in -*) echo a GPU ;; *) sleep 60 ;; esac\n")
    python.chmod(0o755)
    ended = subprocess.run(
        [str(ROOT / "tools/gpu_check.sh"), str(python)],
        env={**os.environ, "GPU_CHECK_SECONDS": "2"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "== serving and generation: failed (124)" in ended.stdout
    assert "== tests: not run, because 2 s are over" in ended.stdout
