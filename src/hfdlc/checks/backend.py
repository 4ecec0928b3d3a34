"""testinfra over docker-py: its own Docker backend needs the `docker` program, which a machine may lack."""

from typing import Any

import testinfra.host
from docker.models.containers import Container
from testinfra.backend import base

from hfdlc.engine import containers


class ExecBackend(base.BaseBackend):  # type: ignore[misc]
    """Runs commands in a container by `exec`."""

    NAME = "exec"

    def __init__(self, container: Container) -> None:
        super().__init__(container.id)
        self.container = container

    def run(self, command: str, *args: str, **_: Any) -> base.CommandResult:
        """Run a shell command, its arguments quoted."""
        line = self.get_command(command, *args)
        status, out, err = containers.execute(self.container, ["/bin/sh", "-c", line])
        return self.result(status, self.encode(line), out, err)


def host(container: Container) -> testinfra.host.Host:
    """The container as a testinfra host."""
    return testinfra.host.Host(ExecBackend(container))
