"""testinfra over docker-py: its own Docker backend needs the `docker` program, which a machine may lack."""

from typing import Any

import testinfra.host
from docker.models.containers import Container
from testinfra.backend import base


class ExecBackend(base.BaseBackend):  # type: ignore[misc]
    """Runs commands in a container by `exec`."""

    NAME = "exec"

    def __init__(self, container: Container) -> None:
        super().__init__(container.id)
        self.container = container

    def run(self, command: str, *args: str, **_: Any) -> base.CommandResult:
        """Run a shell command, its arguments quoted."""
        line = self.get_command(command, *args)
        status, output = self.container.exec_run(["/bin/sh", "-c", line], demux=True)
        out, err = output if isinstance(output, tuple) else (b"", b"")
        return self.result(status or 0, self.encode(line), out or b"", err or b"")


def host(container: Container) -> testinfra.host.Host:
    """The container as a testinfra host."""
    return testinfra.host.Host(ExecBackend(container))
