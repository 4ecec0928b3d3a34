"""What one run works with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from types import TracebackType
from typing import Self

from docker.errors import DockerException
from requests import RequestException

from hfdlc.build.overrides import NONE, Overrides
from hfdlc.engine import buildx, detect
from hfdlc.engine.buildx import Builder
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError
from hfdlc.project import Project
from hfdlc.state import State


class Session:
    """The project, the state folder, the engine and the environment of one command.

    The engine is found, or a private one is started, when it is first used.
    """

    def __init__(self, project: Project, environ: Mapping[str, str], overrides: Overrides = NONE) -> None:
        self.project, self.environ, self.state = project, environ, State.of(environ)
        self.overrides = overrides

    @cached_property
    def engine(self) -> Engine:
        """The engine that answers, or a private one."""
        return detect.ensure(self.environ, self.state)

    @cached_property
    def builder(self) -> Builder:
        """What runs builds: the builder that BUILDX_BUILDER names, else that of the engine.

        Raises HfdlcError if it cannot be used.
        """
        return buildx.named(self.environ, self.state) or buildx.of_engine(self.engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the engine; raises HfdlcError in place of an error that docker-py raised."""
        engine: Engine | None = self.__dict__.pop("engine", None)
        if not engine:
            return
        engine.close()
        if problem and (error := _in_words(problem, engine)):
            raise error from problem


@contextmanager
def using(engine: Engine) -> Iterator[Engine]:
    """An engine outside a session; raises what a session raises, and closes the engine."""
    try:
        yield engine
    except Exception as problem:
        if error := _in_words(problem, engine):
            raise error from problem
        raise
    finally:
        engine.close()


def _in_words(problem: BaseException, engine: Engine) -> HfdlcError | None:
    """What replaces an error of docker-py, or of the connection to the engine."""
    if isinstance(problem, DockerException):
        return HfdlcError(
            f"a request failed: {getattr(problem, 'explanation', None) or problem}",
            location=engine.host,
            hint="was an image or a container removed meanwhile? run the command again",
        )
    if isinstance(problem, (RequestException, OSError)) and not detect.query(engine.address):
        return HfdlcError(
            "the engine does not answer any more",
            location=engine.host,
            hint="start it again (a private one starts by itself), then run the command again",
        )
    return None
