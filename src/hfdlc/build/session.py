"""What one run works with."""

from collections.abc import Mapping
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
        if isinstance(problem, DockerException):
            raise HfdlcError(
                f"a request failed: {getattr(problem, 'explanation', None) or problem}",
                location=engine.host,
                hint="was an image or a container removed meanwhile? run the command again",
            ) from problem
        if isinstance(problem, (RequestException, OSError)) and not detect.query(engine.address):
            raise HfdlcError(
                "the engine does not answer any more",
                location=engine.host,
                hint="start it again (a private one starts by itself), then run the command again",
            ) from problem
