"""The real server, as its own process on loopback, with the small model of a task."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

from environments import FOLDER

SOURCES = FOLDER.parent / "src"


@contextlib.contextmanager
def serving(python, folder, task):
    """The address of a server that is ready, while the block runs; SIGTERM ends it with exit code 0."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "SAGEMAKER_", "PYTHON", "CLIENT"))
    }
    environ.update(PYTHONPATH=str(SOURCES))
    models = [str(python), str(FOLDER / "models.py"), str(folder), task]
    subprocess.run(models, env=environ, check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ.update(
        HF_MODEL_DIR=str(folder / task),
        HF_TASK=task,
        HF_BIND_HOST="127.0.0.1",
        SAGEMAKER_BIND_TO_PORT=str(port),
    )
    log = folder / (task + ".log")
    with log.open("wb") as output:
        server = [str(python), "-m", "hf_inference_toolkit.cli"]
        process = subprocess.Popen(server, env=environ, stdout=output, stderr=output)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, address, log)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    assert code == 0, f"the server ended with {code}:\n" + log.read_text()[-2000:]


def _wait(process, address, log):
    ends = time.monotonic() + 600
    # A proxy of this machine is not for loopback.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < ends and process.poll() is None:
        with contextlib.suppress(OSError), direct.open(address + "/ping", timeout=10):
            return
        time.sleep(0.05)
    raise AssertionError("the server did not become ready:\n" + log.read_text()[-2000:])
