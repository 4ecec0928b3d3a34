"""The server process: port, signals, shutdown."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving import Running

CODE = """
import time
def model_fn(model_dir):
    time.sleep({load})
    return None
def predict_fn(data, model):
    time.sleep(float(data["inputs"]))
    return "answered"
"""


@contextlib.contextmanager
def process(folder, load=0, code=CODE, prefix=(), **environment):
    """`serve` with user code that takes its time; the process and a client for it. `code`: None leaves the folder."""
    if folder is not None and code is not None:
        (folder / "code").mkdir(exist_ok=True)
        (folder / "code" / "inference.py").write_text(code.format(load=load))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = dict(
        os.environ,
        HF_MODEL_DIR=str(folder or "/nowhere"),
        HF_BIND_HOST="127.0.0.1",
        SAGEMAKER_BIND_TO_PORT=str(port),
        **environment,
    )
    names["PYTHONPATH"] = str(Path(__file__).parent.parent / "src")
    child = subprocess.Popen(
        [*prefix, sys.executable, "-m", "hf_inference_toolkit.cli"],
        env=names,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield child, Running(None, port)
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()


def until_status(server, status, seconds=30):
    ends = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if server.get("/ping").status == status:
                return
        assert time.monotonic() < ends
        time.sleep(0.02)


def ended(child, seconds=30):
    """The exit code, and what was logged, a dictionary a line."""
    _, err = child.communicate(timeout=seconds)
    return child.returncode, [json.loads(line) for line in err.decode().splitlines() if line.startswith("{")]


def test_sigterm_finishes_accepted_requests_and_exits_0(tmp_path):
    """Running and queued requests."""
    from test_serving import in_background

    with process(tmp_path) as (child, server):
        until_status(server, 200)
        work = [in_background(lambda: server.post({"inputs": 0.5}).json) for _ in range(3)]
        slow = socket.create_connection(("127.0.0.1", server.port))
        slow.sendall(b"POST /invocations HTTP/1.1\r\nContent-Length: 9\r\n\r\n{")
        time.sleep(0.3)
        child.send_signal(signal.SIGTERM)
        code, lines = ended(child, 30)
        assert code == 0
        for results, thread in work:
            thread.join(5)
            assert results == ["answered"]
        assert "stopped" in [line["message"] for line in lines]
        slow.close()


BUSY = """
from pathlib import Path
def model_fn(model_dir):
    return Path(model_dir)
def predict_fn(data, model):
    (model / "started").touch()
    while not (model / "release").exists():
        sum(range(1000))
    return "done"
"""


def test_ping_is_answered_during_a_prediction(tmp_path):
    """The prediction holds the GIL as often as Python code can."""
    from test_serving import in_background

    with process(tmp_path, code=BUSY) as (child, server):
        until_status(server, 200)
        work = [in_background(lambda: server.post({"inputs": 1}).status) for _ in range(3)]
        ends = time.monotonic() + 30
        while not (tmp_path / "started").exists():
            assert time.monotonic() < ends
            time.sleep(0.02)
        assert [server.get("/ping").status for _ in range(20)] == [200] * 20
        assert [results for results, _ in work] == [[], [], []]
        (tmp_path / "release").touch()
        for results, thread in work:
            thread.join(30)
            assert results == [200]
        child.send_signal(signal.SIGTERM)
        assert ended(child)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_loading_ends_the_process_at_once(tmp_path, number):
    with process(tmp_path, load=60) as (child, server):
        until_status(server, 503)
        child.send_signal(number)
        assert ended(child, 10)[0] == 0


def test_child_processes_of_user_code_end_with_the_server(tmp_path):
    code = (
        "import subprocess, sys\n"
        "def model_fn(d): return subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid\n"
        "def predict_fn(data, model): return model\n"
    )
    with process(tmp_path, code=code) as (child, server):
        until_status(server, 200)
        started = server.post({"inputs": 1}).json
        child.send_signal(signal.SIGTERM)
        assert ended(child)[0] == 0
        ends = time.monotonic() + 5
        while Path("/proc/{}".format(started)).exists():
            state = Path("/proc/{}/stat".format(started)).read_text().split(")")[-1].split()[0]
            if state == "Z":
                break
            assert time.monotonic() < ends, "an orphan is left"
            time.sleep(0.05)


def test_server_handles_signals_and_children_as_process_1(tmp_path):
    """In a PID namespace, where signals have no default action."""
    tried = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], stderr=subprocess.PIPE)
    if tried.returncode != 0:
        pytest.skip("no process namespaces here: " + tried.stderr.decode().strip())
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").write_text(CODE.format(load=0))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = dict(
        os.environ,
        HF_MODEL_DIR=str(tmp_path),
        HF_BIND_HOST="127.0.0.1",
        SAGEMAKER_BIND_TO_PORT=str(port),
        PYTHONPATH=str(Path(__file__).parent.parent / "src"),
    )
    child = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "hf_inference_toolkit.cli"],
        env=names,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        until_status(Running(None, port), 200)
        inside = int(Path("/proc/{0}/task/{0}/children".format(child.pid)).read_text().split()[0])
        os.kill(inside, signal.SIGTERM)
        code, lines = ended(child)
        assert code == 0
        assert [line["pid"] for line in lines if line["message"] == "listening"] == [1]
    finally:
        if child.poll() is None:
            child.kill()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"SAGEMAKER_BIND_TO_PORT": "abc"}, "SAGEMAKER_BIND_TO_PORT: must be a whole number from 1 to 65535"),
        ({"HF_TRUST_REMOTE_CODE": "maybe"}, "HF_TRUST_REMOTE_CODE: must be true or false"),
    ],
)
def test_invalid_settings_exit_with_2(environment, words):
    done = subprocess.run(
        [sys.executable, "-m", "hf_inference_toolkit.cli"],
        env=dict(os.environ, **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert done.returncode == 2
    assert words in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_missing_model_exits_with_2_and_a_hint():
    with process(None) as (child, _):
        code, lines = ended(child)
        assert code == 2
        (error,) = [line for line in lines if line["level"] == "error"]
        assert "HF_MODEL_ID" in error["message"]
        assert "traceback" not in error


def test_used_port_is_reported_with_the_variables(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        with process(tmp_path) as (child, _):
            child.kill()
            child.wait()
        names = dict(os.environ, HF_BIND_HOST="127.0.0.1", SAGEMAKER_BIND_TO_PORT=str(taken.getsockname()[1]))
        done = subprocess.run(
            [sys.executable, "-m", "hf_inference_toolkit.cli"], env=names, stderr=subprocess.PIPE
        )
        assert done.returncode == 2
        assert b"SAGEMAKER_BIND_TO_PORT" in done.stderr


def test_help_lists_every_variable_without_tokens():
    names = dict(os.environ, HF_API_TOKEN="hf_verysecret", HF_TASK="fill-mask")
    done = subprocess.run(
        [sys.executable, "-m", "hf_inference_toolkit.cli", "--help"], env=names, stdout=subprocess.PIPE
    )
    text = done.stdout.decode()
    assert done.returncode == 0
    assert "HF_TASK  [fill-mask]" in text
    assert "HF_API_TOKEN  [set]" in text
    assert "HUGGING_FACE_HUB_TOKEN  [not set]" in text
    assert "verysecret" not in text


def test_tokens_are_not_logged(tmp_path):
    """Even if user code logs them."""
    code = (
        "import logging, os\n"
        "def model_fn(d): logging.warning('it is %s', os.environ['HF_TOKEN'])\n"
        "def predict_fn(d, m): return 1\n"
    )
    with process(tmp_path, code=code, HF_TOKEN="hf_verysecret") as (child, server):
        until_status(server, 200)
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=30)
        assert b"it is ***" in err
        assert b"verysecret" not in err


def test_log_has_request_ids_and_no_pings(tmp_path):
    with process(tmp_path) as (child, server):
        until_status(server, 200)
        server.post({"inputs": 0}, {"X-Request-Id": "find-me"})
        child.send_signal(signal.SIGTERM)
        _, lines = ended(child)
        (entry,) = [line for line in lines if line.get("request_id") == "find-me"]
        assert (entry["status"], entry["path"]) == (200, "/invocations")
        assert not [line for line in lines if line.get("path") == "/ping"]


def check(port):
    """The exit code of `serve --check`, and what it writes."""
    names = dict(
        os.environ,
        SAGEMAKER_BIND_TO_PORT=str(port),
        HF_HOME="/proc/none",
        TMPDIR="/proc/none",
        PYTHONPATH=str(Path(__file__).parent.parent / "src"),
    )
    done = subprocess.run(
        [sys.executable, "-m", "hf_inference_toolkit.cli", "--check"], env=names, stderr=subprocess.PIPE
    )
    return done.returncode, done.stderr.decode()


def test_check_exits_0_only_when_ready(tmp_path):
    """It does not need a writable folder."""
    with process(tmp_path, load=2) as (_, server):
        until_status(server, 503)
        assert check(server.port) == (1, "serve: /ping returns 503\n")
        until_status(server, 200)
        assert check(server.port) == (0, "")
    code, words = check(server.port)
    assert code == 1
    assert "no response from 127.0.0.1 port {}".format(server.port) in words


def test_unfinished_request_at_the_end_of_the_drain_gets_503_and_is_logged(tmp_path):
    with process(tmp_path, HF_DRAIN_SECONDS="0", TS_NUMBER_OF_GPU="1") as (child, server):
        until_status(server, 200)
        client = http.client.HTTPConnection("127.0.0.1", server.port)
        client.request("POST", "/invocations", b'{"inputs": 60}', {"X-Request-Id": "long"})
        time.sleep(0.2)
        child.send_signal(signal.SIGTERM)
        answer = client.getresponse()
        error = json.loads(answer.read().decode())["error"]
        assert (answer.status, error["code"], answer.getheader("connection")) == (503, "draining", "close")
        client.close()
        code, lines = ended(child)
    assert code == 0
    (dropped,) = [line for line in lines if "HF_DRAIN_SECONDS" in line["message"]]
    assert dropped["request_id"] == "long"
    assert "these environment variables have no effect: TS_NUMBER_OF_GPU" in [
        line["message"] for line in lines
    ]


def test_cli_import_loads_neither_framework_nor_transformers():
    script = (
        "import sys; import hf_inference_toolkit.http.process, hf_inference_toolkit.cli; "
        "sys.exit(bool({'torch', 'tensorflow', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
