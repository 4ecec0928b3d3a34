"""The address of the Docker engine: DOCKER_HOST, or the current Docker context."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.context import ContextAPI
from docker.context.config import get_current_context_name
from docker.tls import TLSConfig

from hfdlc.errors import UserError

DEFAULT_SOCKET = "unix:///var/run/docker.sock"


@dataclass(frozen=True)
class Address:
    """An engine's address, and for TLS the folder with ca.pem, cert.pem and key.pem."""

    host: str
    certificates: Path | None = None
    verify: bool = True

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make programs use this engine, whatever the environment names."""
        return {
            "DOCKER_HOST": self.host,
            "DOCKER_CONTEXT": "",
            "DOCKER_CERT_PATH": str(self.certificates or ""),
            "DOCKER_TLS_VERIFY": "1" if self.certificates and self.verify else "",
            "DOCKER_TLS": "1" if self.certificates else "",
        }

    def client(self, timeout: int) -> docker.DockerClient:
        """A client of the engine, which the caller closes."""
        tls: TLSConfig | bool = False
        if folder := self.certificates:
            pair = (str(folder / "cert.pem"), str(folder / "key.pem"))
            tls = TLSConfig(client_cert=pair, ca_cert=str(folder / "ca.pem"), verify=self.verify)
        ssh = self.host.startswith("ssh://")
        return docker.DockerClient(self.host, tls=tls, timeout=timeout, use_ssh_client=ssh)


def of_machine(environ: Mapping[str, str]) -> Address:
    """The address that the Docker CLI would use: DOCKER_HOST, else the context, else the default socket.

    docker-py reads contexts beside config.json, in DOCKER_CONFIG or the home folder of this process.
    Raises UserError if the context does not exist or cannot be read.
    """
    if host := environ.get("DOCKER_HOST"):
        verify, folder = bool(environ.get("DOCKER_TLS_VERIFY")), environ.get("DOCKER_CERT_PATH")
        settings = environ.get("DOCKER_CONFIG") or Path(environ.get("HOME", "/root"), ".docker")
        return Address(host, Path(folder or settings) if verify or folder else None, verify)
    name = environ.get("DOCKER_CONTEXT") or get_current_context_name()
    if not name or name == "default":
        return Address(DEFAULT_SOCKET)
    return _of_context(name)


def _of_context(name: str) -> Address:
    where, then = f"Docker context {name!r}", "docker context use NAME, or set DOCKER_HOST"
    try:
        context = ContextAPI.get_context(name)
    except Exception as error:  # docker-py raises it as it is for files that it cannot parse
        raise UserError(f"cannot be read: {error}", location=where, hint=then) from error
    if not context:
        raise UserError("does not exist", location=where, hint=then)
    tls = context.TLSConfig
    certificates = Path(tls.cert[0]).parent if tls and tls.cert else None
    verify = not context.endpoints["docker"]["SkipTLSVerify"]
    return Address(context.Host or DEFAULT_SOCKET, certificates, verify)
