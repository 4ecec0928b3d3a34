"""The network of a job's hosts: they resolve and reach each other, and nothing else unless it is online."""

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from docker.errors import NotFound
from docker.types import EndpointConfig

from hfdlc.engine import containers
from hfdlc.engine.detect import Engine

API = "1.41"  # that of Docker 20.10, which has all that is used here


def names(number: int) -> tuple[str, ...]:
    """SageMaker's names of hosts."""
    return tuple(f"algo-{n}" for n in range(1, number + 1))


@dataclass(frozen=True)
class Network:
    """How containers are connected."""

    hosts: tuple[str, ...]
    interface: str  # the name of the network interface in the containers
    bridge: str | None = None  # the name of a network of the engine
    mode: str = "none"

    def options(self, host: str, first: str | None) -> dict[str, Any]:
        """The options of a host's container; `first` is the id of the first host's container."""
        if self.bridge:
            # Up to Docker 24 the engine resolves aliases, but no host names.
            alias = EndpointConfig(API, aliases=[host])
            return {"network": self.bridge, "networking_config": {self.bridge: alias}, "hostname": host}
        if self.mode == "none" and first:  # it has /etc/hosts and the host name of the first one too
            return {"network_mode": f"container:{first}"}
        addresses = {name: f"127.0.0.{n}" for n, name in enumerate(self.hosts, 1)}
        return {"network_mode": self.mode, "hostname": host, "extra_hosts": addresses}


@contextmanager
def connected(engine: Engine, hosts: Sequence[str], *, online: bool) -> Iterator[Network]:
    """The network of some hosts, for as long as it is used.

    A private engine has no bridge network: there, the hosts share one loopback interface.
    """
    if len(hosts) == 1 or engine.private:
        mode = ("host" if engine.private else "bridge") if online else "none"
        yield Network(tuple(hosts), "lo", mode=mode)
        return
    made = engine.client.networks.create(
        f"hfdlc-{os.getpid()}-{uuid.uuid4().hex[:8]}",
        driver="bridge",
        internal=not online,
        labels=containers.labels(),
    )
    try:
        yield Network(tuple(hosts), "eth0", bridge=str(made.name))
    finally:
        with suppress(NotFound):  # another process has removed it
            made.remove()
