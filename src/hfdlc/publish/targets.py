"""Where images are published: ECR in AWS regions, or any registry."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import requests
from docker import auth
from docker.errors import DockerException

from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError, UserError
from hfdlc.oci.registry import PLAIN, Registry
from hfdlc.oci.transport import Credentials, as_it_is
from hfdlc.publish.regions import REGIONS
from hfdlc.publish.uri import region as known_region

PATIENCE = 5  # seconds to wait for a registry without TLS
AT_ONCE = 8  # regions that are authenticated with at the same time
ADDRESS = re.compile(r"(http://)?([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d+)?(/[a-z0-9]+([._/-]+[a-z0-9]+)*)?")
ALLOWED = "HOST[:PORT][/PREFIX]"


class Repositories(Protocol):
    """What differs between kinds of registries: their repositories."""

    def has(self, repository: str) -> bool:
        """Whether the repository exists, so that it can be read."""

    def ensure(self, repository: str) -> bool:
        """Create the repository if it is missing; whether it was."""


class CreatedOnPush:
    """Repositories that the registry creates when something is pushed to them."""

    def has(self, repository: str) -> bool:  # noqa: ARG002 - of the protocol
        return True

    def ensure(self, repository: str) -> bool:  # noqa: ARG002 - of the protocol
        return False


@dataclass(frozen=True)
class Target:
    """One registry to publish to."""

    name: str  # the region, or the registry's address
    registry: Registry
    repositories: Repositories = field(default_factory=CreatedOnPush)
    known: dict[str, bool] = field(default_factory=dict)  # repository -> whether it exists

    def ensure(self, repository: str) -> bool:
        """Create the repository if it is missing; whether it was."""
        created = not self.has(repository) and self.repositories.ensure(self.registry.name(repository))
        self.known[repository] = True
        return created

    def has(self, repository: str) -> bool:
        """Whether the repository exists; the answer is remembered."""
        if repository not in self.known:
            self.known[repository] = self.repositories.has(self.registry.name(repository))
        return self.known[repository]


def parse(regions: Sequence[str], registries: Sequence[str]) -> list[Target]:
    """The targets of a command's --region and --registry options.

    `registries` are HOST[/PREFIX], or REGION=HOST[/PREFIX] for the host of one region (a mirror, or a test's
    registry); otherwise AWS names a region's host. Raises UserError for words that name no target, or
    two hosts of one region.
    """
    for name in regions:
        known_region(name)
    hosts: dict[str, str] = {}
    for word in registries:
        name, equals, host = word.rpartition("=")
        if equals and name not in REGIONS:
            raise UserError(
                f"--registry {word!r}: {name!r} is not a region",
                allowed="HOST[/PREFIX] or REGION=HOST[/PREFIX]",
            )
        if name in hosts and regions:
            raise UserError(
                f"--registry gives {hosts[name]} and {host} for {name or 'all regions'}",
                allowed="REGION=HOST[/PREFIX], once for each region",
            )
        hosts[name] = host
    if unused := [name for name in hosts if name and name not in regions]:
        raise UserError(f"--registry names {', '.join(unused)}, but --region does not", hint="add --region")
    if not regions and not hosts:
        raise UserError("no target given", hint="add --region REGION or --registry HOST")
    if not regions:
        return [of_address(address) for address in dict.fromkeys(registries)]
    names = list(dict.fromkeys(regions))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(_of_region, names, [hosts.get(name) or hosts.get("") for name in names]))


def of_registry(address: str) -> Target:
    """A registry outside AWS's regions, with the credentials of Docker's configuration."""
    host = address.removeprefix(PLAIN).partition("/")[0]
    registry = _registry(address, lambda _: _docker_credentials(host))
    return Target(registry.address, registry)


def without_tls(word: str, engine: Engine | None) -> str:
    """A --registry option, with `http://` if the engine lists the registry as insecure and it has no TLS."""
    region, equals, address = word.rpartition("=")
    host = address.partition("/")[0]
    if not engine or address.startswith(PLAIN) or not engine.is_insecure(host):
        return word
    try:
        # No login is sent, so the certificate does not matter.
        requests.get(f"https://{host}/v2/", timeout=PATIENCE, verify=False, auth=as_it_is)  # noqa: S501
    except requests.exceptions.RequestException:
        return f"{region}{equals}{PLAIN}{address}"
    return word


def named(word: str, known: Sequence[Target] = ()) -> Target:
    """One of the known targets, a region by its name, or a registry by its address."""
    for target in known:
        if word in (target.name, target.registry.address):
            return target
    return _of_region(word, None) if word in REGIONS else of_address(word)


def of_address(address: str) -> Target:
    """The target of a host: its kind of registry is decided here, and nowhere else."""
    parts = address.removeprefix(PLAIN).partition("/")[0].split(".")
    if parts[1:3] == ["dkr", "ecr"] and len(parts) > 3:
        return _of_region(parts[3], address)
    return of_registry(address)


def _of_region(name: str, host: str | None) -> Target:
    from hfdlc.publish.ecr import Ecr  # boto3 is slow to import, and other registries do not need it

    ecr = Ecr.of(name)
    own, *pair = ecr.sign_in()
    current = [(pair[0], pair[1])]

    def credentials(renew: bool) -> tuple[str, str]:
        if renew:
            current[0] = ecr.sign_in()[1:]
        return current[0]

    return Target(name, _registry(host or own, credentials), ecr)


def _registry(address: str, credentials: Credentials) -> Registry:
    """The registry at an address; raises UserError if it is none, like an address with `https://`."""
    if not ADDRESS.fullmatch(address):
        raise UserError("not the address of a registry", location=address, allowed=ALLOWED)
    return Registry(address, credentials)


def _docker_credentials(host: str) -> tuple[str, str] | None:
    """User and password in Docker's configuration; raises HfdlcError if its credential helper fails."""
    try:
        found: dict[str, Any] | None = auth.load_config().resolve_authconfig(host)
    except DockerException as error:
        raise HfdlcError(
            f"the credential helper of Docker's configuration failed: {error}",
            location=host,
            hint="install docker-credential-NAME for the `credsStore` or `credHelpers` of config.json, "
            "or remove that entry and run `docker login`",
        ) from error
    # docker-py writes the names of a login in two ways: of a credential helper, and of the file itself.
    login = {name.lower(): value for name, value in (found or {}).items()}
    return (login["username"], login["password"]) if login.get("username") else None
