"""The servers, each as its users start it, and wrk against them."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
Process = subprocess.Popen[bytes]
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
def _process(command: Sequence[str | Path], environ: dict[str, str], log: Path) -> Iterator[Process]:
    """A command and all that it starts, until the block ends."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environ, stdout=out, stderr=out, cwd=log.parent, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ports() -> tuple[int, int]:
    """Two free ones; multi-model-server refuses those of 32768 and above."""
    for port in range(18480, 32000, 2):
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 1))
            return port, port + 1
    raise RuntimeError("no two ports are free between 18480 and 32000")


def _until(process: Process, url: str, body: bytes | None, log: Path, began: float) -> float:
    """Seconds until a server's URL answers with 200."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    while time.perf_counter() < began + 180 and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=60):
            return time.perf_counter() - began
        time.sleep(0.01)
    raise RuntimeError(f"no answer from {url}\n{log.read_text()[-2000:]}")


@contextlib.contextmanager
def ours(python: Path, model: Path, folder: Path, **settings: str) -> Iterator[Running]:
    """The toolkit of this checkout as the image's `serve` starts it."""
    port, _ = _ports()
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT / "toolkit/src"),
        "HF_MODEL_DIR": str(model),
        "HF_BIND_HOST": "127.0.0.1",
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "30",
        **settings,
    }
    log = folder / "ours.log"
    began = time.perf_counter()
    with _process([python, "-m", "hf_inference_toolkit.cli"], environ, log) as process:
        taken = _until(process, f"http://127.0.0.1:{port}/ping", None, log, began)
        yield Running(process.pid, f"http://127.0.0.1:{port}/invocations", taken)


@contextlib.contextmanager
def sagemaker(python: Path, model: Path, folder: Path, workers: int, threads: int) -> Iterator[Running]:
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
    config, log = folder / "config.properties", folder / "sagemaker.log"
    port, management = _ports()
    config.write_text(MMS.format(port=port, next_port=management, workers=workers))
    start = ["--start", "--foreground", "--mms-config", str(config), "--model-store", str(store)]
    began = time.perf_counter()
    url = f"http://127.0.0.1:{port}/invocations"
    models = ["--models", f"model={model.name}"]
    with _process([str(tools / "multi-model-server"), *start, *models], environ, log) as process:
        yield Running(process.pid, url, _until(process, url, b'{"inputs": "a"}', log, began))


@contextlib.contextmanager
def litserve(python: Path, model: Path, folder: Path, batch: int, threads: int) -> Iterator[Running]:
    """LitServe with a handler of our own that takes so many texts together."""
    port, _ = _ports()
    script = Path(__file__).with_name("litserve_server.py")
    command: list[str | Path] = [python, script, model, str(port), str(batch), str(threads)]
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": str(threads)}
    url, log = f"http://127.0.0.1:{port}/predict", folder / "litserve.log"
    began = time.perf_counter()
    with _process(command, environ, log) as process:
        yield Running(process.pid, url, _until(process, url, b'{"inputs": "a"}', log, began))


@contextlib.contextmanager
def infinity(python: Path, model: Path, folder: Path, batch: int = 32) -> Iterator[Running]:
    """infinity-emb with its PyTorch engine, in batches of at most so many texts (its default is 32)."""
    port, _ = _ports()
    command = [str(python.with_name("infinity_emb")), "v2", "--model-id", str(model)]
    command += ["--served-model-name", model.name, "--engine", "torch", "--device", "cpu"]
    command += ["--dtype", "float32", "--no-bettertransformer", "--batch-size", str(batch)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    environ = {"PATH": f"{python.parent}:{os.environ['PATH']}", "HOME": str(folder), "DO_NOT_TRACK": "1"}
    url, log = f"http://127.0.0.1:{port}/embeddings", folder / "infinity.log"
    body = json.dumps({"model": model.name, "input": "a"}).encode()
    began = time.perf_counter()
    with _process(command, environ, log) as process:
        yield Running(process.pid, url, _until(process, url, body, log, began))


def runtime(server: Running, patience: float = 180) -> str:
    """Which runtime serves, by the metrics of ours; waits while OpenVINO is about to."""
    address, ends = urllib.parse.urljoin(server.url, "/metrics"), time.perf_counter() + patience
    while time.perf_counter() < ends:
        with urllib.request.urlopen(address, timeout=60) as answer:
            info = re.search(r"^hf_runtime_info{(.*)} 1", answer.read().decode(), re.MULTILINE)
        labels = dict(re.findall(r'(\w+)="([^"]*)"', info[1])) if info else {"runtime": "an unknown runtime"}
        if "not ready yet" not in labels.get("reason", ""):
            return f"{labels['runtime']} {labels.get('reason', '')}".strip()
        time.sleep(0.1)
    raise RuntimeError(f"after {patience} s OpenVINO is not ready at {server.url}")


def post_all(server: Running, requests: Path) -> None:
    """Every request of a file, one after the other."""
    address = urllib.parse.urlsplit(server.url)
    with contextlib.closing(http.client.HTTPConnection(address.netloc, timeout=120)) as connection:
        for body in requests.read_bytes().splitlines():
            connection.request("POST", address.path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status} at {server.url}")


def press(
    wrk: Sequence[str], server: Running, requests: Path, clients: int, seconds: int, models: int = 0
) -> Load:
    """Press with so many clients, after a warm-up of 4 s. `models`: how many an endpoint has loaded."""
    _wrk(wrk, server, requests, clients, 4, models)
    # What the warm-up left in a queue is no part of what is measured; multi-model-server answers this last.
    body = requests.read_bytes().splitlines()[0]
    request = urllib.request.Request(server.url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300):
        pass
    load = _wrk(wrk, server, requests, clients, seconds, models)
    if load.failed or not load.requests:
        raise RuntimeError(f"{load.failed} of {load.requests} requests failed at {server.url}")
    return load


def slowest_pings(server: Running, seconds: float) -> float:
    """Milliseconds within which 99 of 100 health checks are answered, one every 10 ms on one connection."""
    address = urllib.parse.urlsplit(server.url)
    taken: list[float] = []
    ends = time.perf_counter() + seconds
    with contextlib.closing(http.client.HTTPConnection(address.netloc, timeout=60)) as connection:
        while time.perf_counter() < ends:
            began = time.perf_counter()
            connection.request("GET", "/ping")
            answer = connection.getresponse()
            answer.read()
            taken.append(1e3 * (time.perf_counter() - began))
            if answer.status != 200:
                raise RuntimeError(f"/ping answers {answer.status} at {server.url}")
            time.sleep(0.01)
    return sorted(taken)[len(taken) * 99 // 100]


def _wrk(
    wrk: Sequence[str], server: Running, requests: Path, clients: int, seconds: int, models: int
) -> Load:
    """One run of it."""
    script = str(Path(__file__).with_name("load.lua"))
    how = ["-t1", f"-c{clients}", f"-d{seconds}", "--timeout", "60", "-s", script]
    command = [*wrk, *how, server.url, "--", str(requests), str(models)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in out.splitlines() if line.startswith("JSON "))
    return Load(**json.loads(line.removeprefix("JSON ")))
