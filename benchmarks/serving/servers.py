"""The servers, each as its users start it, and wrk against them."""

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PORT = 18480
MMS = """inference_address=http://127.0.0.1:{port}
management_address=http://127.0.0.1:{next_port}
default_workers_per_model={workers}
default_response_timeout=600
job_queue_size=1000
decode_input_request=false
"""


@dataclass(frozen=True)
class Load:
    """What wrk saw: times in milliseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    max: float
    failed: int

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    pid: int
    url: str
    started: float  # seconds from its start to the first answer

    @property
    def megabytes(self) -> float:
        """What the process has in memory now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextlib.contextmanager
def _process(command: Sequence[str | Path], environ: dict[str, str], log: Path) -> Iterator[int]:
    """A command and all that it starts, until the block ends."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environ, stdout=out, stderr=out, cwd=log.parent, start_new_session=True
        )
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _until(url: str, body: bytes | None, log: Path, began: float) -> float:
    """Seconds until a URL answers with 200."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    while time.perf_counter() < began + 180:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=60):
            return time.perf_counter() - began
        time.sleep(0.01)
    raise RuntimeError(f"no answer from {url}\n{log.read_text()[-2000:]}")


@contextlib.contextmanager
def ours(python: Path, model: Path, folder: Path, **settings: str) -> Iterator[Running]:
    """The toolkit of this checkout as the image's `serve` starts it."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT / "toolkit/src"),
        "HF_MODEL_DIR": str(model),
        "HF_BIND_HOST": "127.0.0.1",
        "SAGEMAKER_BIND_TO_PORT": str(PORT),
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "30",
        **settings,
    }
    log = folder / "ours.log"
    began = time.perf_counter()
    with _process([python, "-m", "hf_inference_toolkit.cli"], environ, log) as pid:
        taken = _until(f"http://127.0.0.1:{PORT}/ping", None, log, began)
        yield Running(pid, f"http://127.0.0.1:{PORT}/invocations", taken)


@contextlib.contextmanager
def peer(python: Path, model: Path, folder: Path, workers: int, threads: int) -> Iterator[Running]:
    """SageMaker's toolkit behind multi-model-server, with so many workers of so many threads."""
    store, tools = folder / "store", python.parent
    store.mkdir(parents=True, exist_ok=True)
    environ = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "OMP_NUM_THREADS": str(threads)}
    environ |= {"HF_TASK": "text-classification", "TEMP": str(folder), "LOG_LOCATION": str(folder)}
    environ |= {"METRICS_LOCATION": str(folder)}
    handler = "sagemaker_huggingface_inference_toolkit.handler_service"
    archive = ["--model-name", model.name, "--handler", handler, "--model-path", str(model)]
    form = ["--export-path", str(store), "--archive-format", "no-archive", "--runtime", "python", "-f"]
    command = [str(tools / "model-archiver"), *archive, *form]
    subprocess.run(command, check=True, env=environ, capture_output=True)
    config, log = folder / "config.properties", folder / "peer.log"
    config.write_text(MMS.format(port=PORT, next_port=PORT + 1, workers=workers))
    start = ["--start", "--foreground", "--mms-config", str(config), "--model-store", str(store)]
    began = time.perf_counter()
    url = f"http://127.0.0.1:{PORT}/invocations"
    models = ["--models", f"model={model.name}"]
    with _process([str(tools / "multi-model-server"), *start, *models], environ, log) as pid:
        yield Running(pid, url, _until(url, b'{"inputs": "a"}', log, began))


def press(wrk: Sequence[str], server: Running, requests: Path, clients: int, seconds: int) -> Load:
    """Press with so many clients for a while, after a warm-up of 4 s."""
    script = Path(__file__).with_name("load.lua")
    for lasting in (4, seconds):
        command = [
            *wrk,
            "-t1",
            f"-c{clients}",
            f"-d{lasting}",
            "--timeout",
            "60",
            "-s",
            str(script),
            server.url,
        ]
        out = subprocess.run(
            [*command, "--", str(requests)], check=True, capture_output=True, text=True
        ).stdout
    line = next(line for line in out.splitlines() if line.startswith("JSON "))
    load = Load(**json.loads(line.removeprefix("JSON ")))
    if load.failed:
        raise RuntimeError(f"{load.failed} of {load.requests} requests failed at {server.url}")
    return load
