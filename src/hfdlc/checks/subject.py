"""What the checks look at: an image, a container of it, its cell, and this machine's configuration."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from docker.models.containers import Container
from testinfra.host import Host

from hfdlc import containers, facts, lock
from hfdlc.cells import Cell
from hfdlc.checks import backend
from hfdlc.engine import Engine
from hfdlc.facts import Facts
from hfdlc.machine import PackageSources
from hfdlc.matrix import Matrix
from hfdlc.state import State


@dataclass(frozen=True)
class Subject:
    """An image under test."""

    cell: Cell
    matrix: Matrix
    root: Path
    state: State
    engine: Engine
    image: str
    facts: Facts
    container: Container  # it does nothing; commands are run in it
    sources: PackageSources

    @property
    def host(self) -> Host:
        """The container, as testinfra speaks to it."""
        return backend.host(self.container)

    @property
    def config(self) -> dict[str, Any]:
        """The image's configuration: entry point, command, environment, labels."""
        config: dict[str, Any] = facts.image_of(self.image, self.engine).attrs["Config"]
        return config

    @property
    def locked(self) -> dict[str, str]:
        """Every locked package with its version."""
        groups = lock.read(self.cell, self.root).values()
        return {entry.name: entry.version for entries in groups for entry in entries}

    @property
    def toolkit_version(self) -> str:
        """The version of the toolkit's sources."""
        return lock.toolkit_version(self.root)

    def python(self, script: str) -> str:
        """What a script prints inside."""
        return containers.python(self.container, script)

    @contextmanager
    def serving(self, task: str, model_script: str) -> Iterator[Container]:
        """A container that runs the image as it is meant to run, on a model that the script makes inside it.

        The script finds the folder for the model in `folder`.
        """
        with TemporaryDirectory(dir=self.state.folder("tmp")) as folder:
            mount = {folder: {"bind": "/opt/ml/model", "mode": "rw"}}
            with containers.idle(self.image, self.engine, mount) as maker:
                containers.python(maker, f"folder = '/opt/ml/model'\n{model_script}")
            mount[folder]["mode"] = "ro"
            with containers.started(
                self.image, ["serve"], self.engine, environment={"HF_TASK": task}, volumes=mount
            ) as container:
                yield container


REQUEST = """
import json, sys, time, urllib.error, urllib.request
def ask(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request("http://127.0.0.1:8080" + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)
"""


def wait_until_ready(container: Container) -> None:
    """Until /ping answers 200; an AssertionError with the last answer and the log where it never does."""
    script = """
for _ in range(1200):
    status, text = ask("/ping")
    if status == 200:
        break
    time.sleep(0.1)
print(status, text)
"""
    told = containers.python(container, REQUEST + script).strip()
    assert told.startswith("200"), f"/ping answers {told}\n{container.logs(tail=10).decode()}"


def invoke(container: Container, body: dict[str, Any]) -> tuple[int, Any]:
    """POST to /invocations inside the container; the status, and the answer from its JSON."""
    script = f"print(json.dumps(ask('/invocations', json.loads({json.dumps(body)!r}))))"
    status, text = json.loads(containers.python(container, REQUEST + script))
    return status, json.loads(text)
