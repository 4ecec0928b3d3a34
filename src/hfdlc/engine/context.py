"""Where this machine's engine is reached: what DOCKER_HOST or Docker's current context says."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.tls import TLSConfig

DEFAULT_SOCKET = "unix:///var/run/docker.sock"


@dataclass(frozen=True)
class Address:
    """An engine's address, and for TLS the folder with ca.pem, cert.pem and key.pem."""

    host: str
    certificates: Path | None = None
    verify: bool = True

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to reach it, whatever this machine's environment says of another engine."""
        return {
            "DOCKER_HOST": self.host,
            "DOCKER_CONTEXT": "",
            "DOCKER_CERT_PATH": str(self.certificates or ""),
            "DOCKER_TLS_VERIFY": "1" if self.certificates and self.verify else "",
            "DOCKER_TLS": "1" if self.certificates else "",
        }

    def client(self, timeout: int) -> docker.DockerClient:
        """docker-py, speaking to it; whoever asks for it closes it."""
        tls: TLSConfig | bool = False
        if folder := self.certificates:
            pair = (str(folder / "cert.pem"), str(folder / "key.pem"))
            tls = TLSConfig(client_cert=pair, ca_cert=str(folder / "ca.pem"), verify=self.verify)
        ssh = self.host.startswith("ssh://")
        return docker.DockerClient(self.host, tls=tls, timeout=timeout, use_ssh_client=ssh)


def of_machine(environ: Mapping[str, str]) -> Address:
    """The address that Docker's own client would use: DOCKER_HOST, else the context, else the socket."""
    settings = Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME", "/root")) / ".docker")
    if host := environ.get("DOCKER_HOST"):
        verify = bool(environ.get("DOCKER_TLS_VERIFY"))
        named = environ.get("DOCKER_CERT_PATH")
        return Address(host, Path(named or settings) if verify or named else None, verify)
    name = environ.get("DOCKER_CONTEXT") or _read(settings / "config.json").get("currentContext")
    if not name or name == "default":
        return Address(DEFAULT_SOCKET)
    return _of_context(name, settings / "contexts")


def _of_context(name: str, folder: Path) -> Address:
    """Docker keeps a context in a folder that is named with its name's SHA-256."""
    key = hashlib.sha256(name.encode()).hexdigest()
    endpoint = _read(folder / "meta" / key / "meta.json").get("Endpoints", {}).get("docker", {})
    certificates = folder / "tls" / key / "docker"
    return Address(
        endpoint.get("Host") or DEFAULT_SOCKET,
        certificates if certificates.is_dir() else None,
        not endpoint.get("SkipTLSVerify", False),
    )


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing or broken, as for Docker's own client."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
