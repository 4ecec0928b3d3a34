"""Fixtures of all tests: the repository, the engine, and the default cell, which is built once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hfdlc import project
from hfdlc.build import builder
from hfdlc.build.session import Session
from hfdlc.checks import runner
from hfdlc.checks.subject import Subject
from hfdlc.engine.detect import Engine
from hfdlc.locks.indexes import index_config
from hfdlc.project import Project
from hfdlc.state import State

pytest_plugins = ["pytester", "engine_guard"]

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def repository() -> Project:
    """The repository that the tests are in."""
    return project.find(ROOT)


@pytest.fixture(scope="session")
def state() -> State:
    """The state folder that the commands use too, so that nothing is built twice."""
    return State.of(os.environ)


@pytest.fixture(scope="session")
def session(repository: Project) -> Iterator[Session]:
    """A session on the repository."""
    with Session(repository, os.environ) as session:
        yield session


@pytest.fixture(scope="session")
def used_engine(session: Session) -> Engine:
    """The engine that answers, or a private one."""
    return session.engine


@pytest.fixture(scope="session")
def built(repository: Project, session: Session) -> str:
    """The id of the default cell, whose image is up to date."""
    builder.build(session, [repository.default])
    return repository.default.id


@pytest.fixture(scope="session")
def subject(built: str, repository: Project, used_engine: Engine, state: State) -> Iterator[Subject]:
    """The default cell's image, as the checks see it."""
    sources = index_config(os.environ)
    with runner.subject(repository.default, repository, used_engine, state, sources) as seen:
        yield seen
