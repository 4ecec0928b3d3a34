"""The image under test: a container of it, its cell, and the configuration of this machine."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound
from docker.models.containers import Container
from docker.models.images import Image
from testinfra.host import Host

from hfdlc.checks import backend, secrets
from hfdlc.checks.facts import Facts
from hfdlc.checks.secrets import Apt, Public
from hfdlc.engine import containers, images
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError
from hfdlc.locks import lockfile
from hfdlc.locks.indexes import IndexConfig
from hfdlc.matrix.cells import Cell
from hfdlc.state import State


@dataclass(frozen=True)
class Machine:
    """The package configuration of the building machine, and what of it is public."""

    sources: IndexConfig
    apt: Apt = field(default_factory=Apt)
    public: Public = field(default_factory=Public)

    def forbidden_strings(self) -> dict[bytes, str]:
        """What must not be in an image, each with what it is."""
        return secrets.forbidden_strings(self.sources, self.apt, self.public)


@dataclass(frozen=True)
class Subject:
    """An image under test."""

    cell: Cell
    root: Path
    state: State
    engine: Engine
    image: str
    facts: Facts
    container: Container  # idle; commands are run in it
    machine: Machine
    gpus: bool = False  # whether containers have the machine's GPUs
    locks: Mapping[str, str] = field(default_factory=dict)  # lock files that replace the cell's own

    @property
    def built(self) -> Image:
        """The image in the engine."""
        return images.image_of(self.image, self.engine)

    def expect_unchanged(self) -> None:
        """Raise HfdlcError if the image or the container was removed while the checks ran."""
        image = self.built
        try:
            self.container.reload()
        except NotFound as error:
            raise HfdlcError(
                "the container of the checks was removed while they ran",
                location=self.image,
                hint=f"hfdlc test {self.image}",
            ) from error
        if image.id != self.facts.digest:
            raise HfdlcError(
                "another image got this name while the checks ran",
                location=self.image,
                hint=f"hfdlc test {self.image}",
            )

    @property
    def host(self) -> Host:
        """The container as a testinfra host."""
        return backend.host(self.container)

    @property
    def config(self) -> dict[str, Any]:
        """The image's configuration: entry point, command, environment, labels."""
        config: dict[str, Any] = self.built.attrs["Config"]
        return config

    @property
    def locked(self) -> dict[str, str]:
        """Every locked package with its version."""
        groups = lockfile.read(self.cell, self.root)
        for group, path in self.locks.items():
            groups[group] = lockfile.entries((self.root / path).read_text())
        return {entry.name: entry.version for entries in groups.values() for entry in entries}

    @property
    def toolkit_version(self) -> str:
        """The version of the toolkit's sources."""
        return lockfile.toolkit_version(self.root)

    def python(self, script: str) -> str:
        """Run a script inside; its output."""
        return containers.python(self.container, script)

    def loads(self, script: str) -> dict[str, set[str]]:
        """The libraries that the linker searches for in a script, each with the files that it loaded."""
        found = json.loads(self.python(f"script = {script!r}\n{LOADS}"))
        return {name: set(files) for name, files in found.items()}

    @contextmanager
    def model(self, script: str) -> Iterator[str]:
        """A volume with a model that a script makes inside, in the folder `folder`."""
        with containers.volume(self.engine) as volume:
            mount = {volume: {"bind": "/opt/ml/model", "mode": "rw"}}
            with containers.idle(self.image, self.engine, mount) as maker:
                containers.python(maker, f"folder = '/opt/ml/model'\n{script}{READABLE}")
            yield volume

    @contextmanager
    def serving(self, task: str, model: str, *, restricted: bool = False) -> Iterator[Container]:
        """A container that serves the model of a volume; `restricted`: see `containers.started`."""
        mount = {model: {"bind": "/opt/ml/model", "mode": "ro"}}
        settings = {"HF_TASK": task}
        with containers.started(
            self.image,
            ["serve"],
            self.engine,
            environment=settings,
            volumes=mount,
            gpus=self.gpus,
            restricted=restricted,
        ) as container:
            yield container


# transformers writes weights that only their owner may read.
READABLE = "\nimport subprocess\nsubprocess.run(['chmod', '-R', 'a+rX', folder], check=True)\n"
LOADS = """
import json, os, re, subprocess, sys
report = "import json; print(json.dumps(sorted({line.split()[-1] for line in open('/proc/self/maps')})))"
ended = subprocess.run(
    [sys.executable, "-c", script + "\\n" + report], env=dict(os.environ, LD_DEBUG="libs"),
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
)
if ended.returncode:
    sys.exit("\\n".join(line for line in ended.stderr.splitlines() if "\\t" not in line))
files = json.loads(ended.stdout.splitlines()[-1])
names = set(re.findall(r"find library=(\\S+)", ended.stderr))
print(json.dumps({name: [file for file in files if os.path.basename(file) == name] for name in names}))
"""
REQUEST = """
import json, sys, time, urllib.error, urllib.request
def request(path, body=None, seconds=10):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    message = urllib.request.Request("http://127.0.0.1:8080" + path, data, headers)
    try:
        with urllib.request.urlopen(message, timeout=seconds) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)
"""


def wait_until_ready(container: Container) -> None:
    """Wait until /ping answers 200; before that, it may only refuse connections or answer 503.

    Raises AssertionError with the last answer and the log.
    """
    script = """
seen = []
for _ in range(1200):
    status, text = request("/ping")
    seen = seen if [status, text] in seen else seen + [[status, text]]
    if status not in (0, 503):
        break
    time.sleep(0.1)
print(json.dumps(seen))
"""
    try:
        last = json.loads(containers.python(container, REQUEST + script))[-1]
    except (APIError, HfdlcError) as error:
        last = [0, str(error)]
    assert last[0] == 200, f"/ping answers {last}\n{container.logs(tail=10).decode(errors='replace')}"


def invoke(container: Container, body: dict[str, Any]) -> tuple[int, Any]:
    """POST to /invocations inside the container; the status and the parsed answer.

    Without an answer within a minute, the status is 0 and the answer is the reason.
    """
    script = f"print(json.dumps(request('/invocations', json.loads({json.dumps(body)!r}), 60)))"
    status, text = json.loads(containers.python(container, REQUEST + script))
    return status, json.loads(text) if status else text
