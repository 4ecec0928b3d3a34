"""Each check of training images fails on one that is wrong in that point, and says in what."""

import inspect
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from hfdlc.build import builder
from hfdlc.build.session import Session
from hfdlc.checks import facts, runner, test_training
from hfdlc.checks.subject import Subject
from hfdlc.engine import containers, images
from hfdlc.engine.detect import Engine
from hfdlc.locks.indexes import index_config
from hfdlc.project import Project
from hfdlc.state import State

pytestmark = pytest.mark.engine

TRAIN = "/opt/venv/bin/train"
# sagemaker-training's own, which knows neither signals nor tracebacks.
THEIRS = "#!/opt/venv/bin/python\nfrom sagemaker_training.cli.train import main\nmain()\n"
# Hands no signal on, and ends at once where theirs would ignore it.
DEAF = f"#!/bin/sh\ntrap 'exit 3' TERM\n{TRAIN}.py &\nwait $!\n"


@dataclass(frozen=True)
class Wrong:
    """A shell command that makes the image wrong: the checks that find it, and a word of what they say."""

    checks: str
    change: str
    word: str


def write(text: str) -> str:
    """A shell command that replaces `train`."""
    return f"mv {TRAIN} {TRAIN}.py && printf '%s' {shlex.quote(text)} > {TRAIN} && chmod +x {TRAIN}"


WRONG = [
    Wrong(
        "what_scripts_import_is_there",
        "rm -r /opt/venv/lib/python3.11/site-packages/sklearn",
        "No module named 'sklearn'",
    ),
    Wrong("a_script_is_trained_with", write("#!/bin/sh\nexit 0\n"), "accuracy 1.0"),
    Wrong("a_failure_has_the_scripts_own_reason", write(THEIRS), "ExecuteUserScriptError"),
    Wrong("wrong_input_is_reported", write("#!/bin/sh\nexit 1\n"), "assert"),
    Wrong("a_script_gets_sigterm", write(DEAF), "3 == 0"),
    Wrong("torch_distributed_starts_torchrun", write(THEIRS), "RANK"),
    Wrong("what_was_trained_is_served", "rm /opt/venv/bin/serve", "/ping answers"),
]


@pytest.fixture(scope="module")
def training(repository: Project, session: Session, used_engine: Engine, state: State) -> Iterator[Subject]:
    """The training image of the default cell's release, as the checks see it."""
    name = repository.default.id.replace("-inference:", "-training:")
    (cell,) = [cell for cell in repository.cells if cell.id == name]
    builder.build(session, [cell])
    sources = index_config(os.environ)
    with runner.subject(cell, repository, used_engine, state, sources) as seen:
        yield seen


@contextmanager
def changed(subject: Subject, command: str) -> Iterator[Subject]:
    """The subject with an image in which a command was run; the image is gone afterwards."""
    tag = f"hfdlc.local/wrong-training:{os.getpid()}"
    with containers.idle(subject.image, subject.engine) as container:
        status, said = container.exec_run(["sh", "-c", command])
        assert status == 0, said
        container.commit(tag, changes=['ENTRYPOINT ["/usr/bin/env"]', 'CMD ["train"]'])
    try:
        with containers.idle(tag, subject.engine) as container:
            read = facts.look(subject.cell, container, images.image_of(tag, subject.engine))
            yield replace(subject, image=tag, container=container, facts=read)
    finally:
        subject.engine.client.images.remove(tag, force=True)


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.checks for wrong in WRONG])
def test_check_fails_on_a_wrong_image(training: Subject, wrong: Wrong) -> None:
    """The check that looks at the point fails, and names what differs."""
    with changed(training, wrong.change) as seen:
        report = runner.run(seen, only=f"test_{wrong.checks}")
    assert report.failed, report
    assert not report.passed, report
    assert wrong.word in "\n".join(report.failed.values())


def test_every_check_has_a_wrong_image() -> None:
    """A new check needs an entry above."""
    found = {name for name, _ in inspect.getmembers(test_training, inspect.isfunction)}
    checks = {re.sub("^test_", "", name) for name in found if name.startswith("test_")}
    assert checks == {wrong.checks for wrong in WRONG}
