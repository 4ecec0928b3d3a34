"""Small training jobs for the checks, without network."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from docker.models.containers import Container

from hfdlc.checks.subject import Subject
from hfdlc.engine import containers
from hfdlc.sagemaker import job as train_job
from hfdlc.sagemaker.job import HOST as HOST

PATIENCE = 120.0  # seconds for the script of a check


@dataclass(frozen=True)
class Job:
    """A script, and how the job differs from a correct one."""

    script: str
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=lambda: {"text.csv": ""})
    files: Mapping[str, str] = field(default_factory=dict)  # replace those of the configuration
    environment: Mapping[str, str] = field(default_factory=dict)
    channel: bool = True  # whether the folder of the channel exists

    def content(self) -> dict[str, bytes | Path]:
        """All files that the container gets."""
        job = train_job.Job("train.py", {"train.py": self.script.encode()}, self.hyperparameters)
        data = {f"/opt/ml/input/data/training/{name}": text for name, text in self.data.items()}
        wrong = {f"/opt/ml/input/config/{name}": text for name, text in self.files.items()}
        added = {**(data if self.channel else {}), **wrong}
        return job.files() | {path: text.encode() for path, text in added.items()}


@dataclass(frozen=True)
class Ended:
    """An exited training container."""

    container: Container
    code: int
    log: str

    def read(self, path: str) -> str | None:
        """The text of a file in the container; None if it does not exist."""
        return train_job.read(self.container, path)


@dataclass(frozen=True)
class Running:
    """A running training container."""

    container: Container

    def log(self) -> str:
        """Its output."""
        return self.container.logs().decode(errors="replace")

    def until(self, word: str) -> None:
        """Wait until the output contains a word.

        Raises AssertionError with the log where it ends, or time is over, before.
        """
        until = time.monotonic() + PATIENCE
        while word not in self.log():
            self.container.reload()
            assert self.container.status == "running", self.log()
            assert time.monotonic() < until, self.log()
            time.sleep(0.1)

    def end(self, timeout: float = PATIENCE) -> Ended:
        """Wait for the end."""
        code = self.container.wait(timeout=timeout)["StatusCode"]
        return Ended(self.container, int(code), self.log())


@contextmanager
def started(subject: Subject, job: Job, volumes: containers.Volumes | None = None) -> Iterator[Running]:
    """A container that trains, as SageMaker starts it."""
    resources = train_job.Resources(environment=job.environment)
    with train_job.created(
        subject.image, subject.engine, job.content(), volumes or {}, resources
    ) as container:
        container.start()
        yield Running(container)


@contextmanager
def run(subject: Subject, job: Job) -> Iterator[Ended]:
    """The same, after it has exited."""
    with started(subject, job) as running:
        yield running.end()


@contextmanager
def model(subject: Subject, job: Job) -> Iterator[str]:
    """A volume with what the job wrote to /opt/ml/model."""
    with containers.volume(subject.engine) as volume:
        with started(subject, job, {volume: {"bind": train_job.MODEL, "mode": "rw"}}) as running:
            ended = running.end()
            assert ended.code == 0, ended.log
        yield volume
