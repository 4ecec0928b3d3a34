"""The main commands, on the real engine."""

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from hfdlc.engine.detect import Engine

ROOT = Path(__file__).parents[2]
HFDLC = str(Path(sys.executable).with_name("hfdlc"))


def test_build_with_check_prints_facts_and_a_docker_run_line(built: str) -> None:
    """What `make build` runs: the image, its facts, and a line that starts it."""
    ended = subprocess.run([HFDLC, "build", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "transformers_version  5.23.0" in ended.stdout
    assert re.search(r"docker run .*/opt/ml/model:ro " + re.escape(built), ended.stdout)


def test_facts_are_json_on_standard_output(built: str) -> None:
    """Nothing but JSON, so that programs can read it."""
    ended = subprocess.run([HFDLC, "facts", built, "--json"], cwd=ROOT, capture_output=True, text=True)
    assert json.loads(ended.stdout)["framework_version"] == "2.13.0"


def test_engine_status_has_the_documented_keys(used_engine: Engine) -> None:
    """host, version, buildkit, private."""
    ended = subprocess.run([HFDLC, "engine", "status", "--json"], cwd=ROOT, capture_output=True, text=True)
    status = json.loads(ended.stdout)
    assert list(status) == ["host", "version", "buildkit", "private"]
    assert status["host"] == used_engine.host


def test_serve_answers_the_curl_line_that_it_prints(built: str, used_engine: Engine) -> None:
    """Real weights and sentences: a vector of 384 numbers, two scores; Ctrl-C removes the container."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = {container.id for container in used_engine.client.containers.list(all=True)}
    process = subprocess.Popen(
        [HFDLC, "serve", "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background makes its children ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(4)]
        vector, scores = (
            json.loads(subprocess.run(shlex.split(line), capture_output=True, text=True, check=True).stdout)
            for line in lines[::2]
        )
        assert len(vector) == 384
        assert lines[1] == f"[{vector[0]:.4f}, {vector[1]:.4f}, {vector[2]:.4f}, ...] (384 numbers)\n"
        assert scores[0] > 0.5 > scores[1]
        assert lines[3] == f"[{scores[0]:.4f}, {scores[1]:.4f}]\n"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert process.returncode == 130
    for _ in range(50):
        now = {container.id for container in used_engine.client.containers.list(all=True)}
        if now == before:
            break
        time.sleep(0.1)
    assert now == before
