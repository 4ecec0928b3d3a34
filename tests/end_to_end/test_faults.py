"""Faults of a real machine: each is produced for real, reported, and survived."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hfdlc.engine.detect import Engine
from hfdlc.state import State

pytestmark = pytest.mark.engine

HFDLC = str(Path(sys.executable).with_name("hfdlc"))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a private engine and mounts need root")


Command = Callable[..., subprocess.CompletedProcess[str]]


def letter(ended: subprocess.CompletedProcess[str], status: int) -> str:
    """What a command that failed as it should said, without any traceback."""
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


def until(is_so: Callable[[], bool]) -> None:
    """Wait for what will be so soon."""
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.1)
    raise AssertionError("it was not so within a minute")


def change(file: Path, old: str, new: str) -> None:
    """Replace a text that must be there."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_lock_reports_an_unreachable_index(hfdlc: Command, clone: Path, tmp_path: Path) -> None:
    """`hfdlc lock` names the unreachable source and where it is configured; the old locks stay."""
    before = {file: file.read_text() for file in clone.glob("images/**/*.lock")}
    ended = hfdlc(
        "lock", environ={"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "HFDLC_STATE": str(tmp_path / "s")}
    )
    output = letter(ended, 1)
    assert "a package index is unreachable" in output
    assert "pip config list" in output
    assert {file: file.read_text() for file in clone.glob("images/**/*.lock")} == before


def test_lock_reports_a_version_that_the_index_lacks(hfdlc: Command, clone: Path) -> None:
    """The message has uv's explanation, and the requested Python and platform."""
    change(clone / "matrix.yaml", "transformers: 5.23.0", "transformers: 5.999.0")
    change(clone / "matrix.yaml", "transformers5.23.0", "transformers5.999.0")
    output = letter(hfdlc("lock"), 1)
    assert "transformers==5.999.0" in output
    assert "Python 3.11 on x86_64-manylinux_2_28" in output


def test_lock_reports_a_package_without_a_wheel(hfdlc: Command, clone: Path) -> None:
    """Which package, which Python, which platform."""
    change(clone / "matrix.yaml", "sources_only: [sagemaker-training, inotify-simple]", "sources_only: []")
    output = letter(hfdlc("lock", "*pytorch-training:2.13.0*cpu-py311*"), 1)
    assert "sagemaker-training" in output
    assert "has no usable wheels" in output
    assert "Python 3.11 on x86_64-manylinux_2_28" in output


def test_build_refuses_a_cell_with_an_incomplete_lock(hfdlc: Command) -> None:
    """One line that says what is missing, and what to run where; `list` shows it too."""
    cell = "huggingface-pytorch-inference:1.7.1-transformers4.6.1-cpu-py36-ubuntu18.04"
    output = letter(hfdlc("build", cell), 1)
    assert f"{cell}: its lock is incomplete: torch==1.7.1+cpu from https://" in output
    assert f"hint: run `hfdlc lock {cell}` on a machine that can reach it" in output
    assert f"{cell}  incomplete: torch==1.7.1+cpu from https://" in hfdlc("list", cell).stdout


def test_build_refuses_a_lock_of_another_matrix(hfdlc: Command, clone: Path) -> None:
    """Where, what, and the command that mends it; nothing is built."""
    change(clone / "matrix.yaml", "packages: [sentencepiece,", "packages: [sentencepiece>=0.1,")
    output = letter(hfdlc("build"), 1)
    assert re.search(
        r"framework\.lock: the lock file is out of date: the matrix has changed\n  hint: hfdlc lock", output
    )


def test_build_refuses_an_edited_dockerfile(hfdlc: Command, clone: Path) -> None:
    """`build` refuses it, and `check` shows the difference."""
    (file,) = clone.glob("images/huggingface-pytorch-inference/2.13.0-*-cpu-py311-*/Dockerfile")
    change(file, "EXPOSE 8080", "EXPOSE 9090")
    assert "hint: hfdlc render" in letter(hfdlc("build"), 1)
    ended = hfdlc("check")
    assert "are not current" in letter(ended, 1)
    assert "-EXPOSE 9090\n+EXPOSE 8080" in ended.stdout


def test_failed_build_names_cell_instruction_and_log(
    hfdlc: Command, clone: Path, used_engine: Engine
) -> None:
    """The cell, the instruction, its last lines, the log, and the command that repeats it."""
    (clone / "toolkit" / "pyproject.toml").write_text("this is no TOML")
    output = letter(hfdlc("build"), 1)
    assert "\n  hint: hfdlc build huggingface-" in output
    assert "the stage 'inference-toolkit' failed at: RUN" in output
    log = Path(re.findall(r"log: (\S+)", output)[-1])
    assert "uv pip install" in log.read_text()


def test_ctrl_c_ends_a_build_and_the_next_build_succeeds(
    hfdlc: Command, clone: Path, used_engine: Engine, state: State
) -> None:
    """In the middle of an installation: exit code 130, no container, and a second run that succeeds."""
    client = used_engine.client
    before = {container.id for container in client.containers.list(all=True)}
    # One more instruction, long enough to be met, makes the installation of the toolkit's needs run again.
    change(
        clone / "templates" / "partials" / "uv.Dockerfile.j2",
        " AS {{ layer.name }}\n{% if layer.page %}",
        " AS {{ layer.name }}\n{% if layer.name == 'toolkit' %}\n"
        f"ENV AGAIN={time.time_ns()}\nRUN sleep 5\n{{% endif %}}\n{{% if layer.page %}}",
    )
    assert hfdlc("render").returncode == 0
    process = subprocess.Popen(
        [HFDLC, "build"],
        cwd=clone,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background makes its children ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    logs = state.folder("logs")
    begun = "RUN sleep 5 | started"
    until(lambda: any(begun in log.read_text() for log in logs.glob(f"*-{process.pid}.log")))
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert {container.id for container in client.containers.list(all=True)} == before
    assert hfdlc("build").returncode == 0


@needs_root
def test_engine_start_on_a_full_disk_leaves_no_files(tmp_path: Path) -> None:
    """The engine's packages do not fit: the message says so, and the folder is as before."""
    mount = Path("/tmp") / f"hfdlc-small-{os.getpid()}"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(mount)], check=True)
    try:
        ended = subprocess.run(
            [HFDLC, "engine", "start"],
            env={**os.environ, "HFDLC_STATE": str(mount), "DOCKER_HOST": "unix:///nowhere.sock"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        output = letter(ended, 1)
        assert "df -h" in output
        assert not (mount / "engine" / "root").exists()
        assert not (mount / "engine" / "fresh").exists()
    finally:
        subprocess.run(["umount", str(mount)], check=True)
        mount.rmdir()
