"""Where images go: ECR in regions, or any registry."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from docker import auth
from docker.errors import DockerException

from hfdlc.errors import UserError
from hfdlc.oci.registry import Registry
from hfdlc.publish.regions import REGIONS
from hfdlc.publish.uri import region as known_region

if TYPE_CHECKING:
    from hfdlc.publish.ecr import Ecr

AT_ONCE = 8  # regions that are signed in to


@dataclass(frozen=True)
class Place:
    """One registry to publish to, and the API beside it where it is AWS's."""

    name: str
    registry: Registry
    ecr: "Ecr | None" = None

    known: dict[str, bool] = field(default_factory=dict)  # repository -> whether it is there

    def ensure(self, repository: str) -> bool:
        """Make a repository where registries do not make it by themselves; whether it was missing."""
        made = not self.has(repository) and self.ecr is not None
        if made and self.ecr:
            self.ecr.ensure(self.registry.name(repository))
        self.known[repository] = True
        return made

    def has(self, repository: str) -> bool:
        """Whether images can be asked for there."""
        if repository not in self.known:
            self.known[repository] = self.ecr.has(self.registry.name(repository)) if self.ecr else True
        return self.known[repository]


def places(regions: Sequence[str], registries: Sequence[str]) -> list[Place]:
    """The places that a command names.

    `registries` are HOST[/PREFIX], or REGION=HOST[/PREFIX] for the host of one region (a mirror of it, or a
    registry that a test started); without one a region's host is what AWS tells.
    """
    for name in regions:
        known_region(name)
    hosts: dict[str, str] = {}
    for word in registries:
        name, equals, host = word.rpartition("=")
        if equals and name not in REGIONS:
            raise UserError(f"--registry {word!r}: {name!r} is no region", allowed="[REGION=]HOST[/PREFIX]")
        hosts[name] = host
    if stray := [name for name in hosts if name and name not in regions]:
        raise UserError(f"--registry names {', '.join(stray)}, and --region does not")
    if not regions and not hosts:
        raise UserError("where to is not said", then="add --region REGION, or --registry HOST")
    if not regions:
        return [plain(hosts[""])]
    names = list(dict.fromkeys(regions))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(_of_region, names, [hosts.get(name) or hosts.get("") for name in names]))


def plain(place: str) -> Place:
    """A registry that is no AWS region's, with the credentials of Docker's own configuration."""
    return Place(place, Registry(place, lambda _: _docker(place.partition("/")[0])))


def named(word: str, known: Sequence[Place] = ()) -> Place:
    """One of the known places, a region by its name, or a registry by its host."""
    for place in known:
        if word in (place.name, place.registry.place):
            return place
    return _of_region(word, None) if word in REGIONS else plain(word)


def of_host(place: str) -> Place:
    """The place of an image's URI: ECR by its region, else a plain registry."""
    parts = place.partition("/")[0].split(".")
    if parts[1:3] == ["dkr", "ecr"]:
        return _of_region(parts[3], place)
    return plain(place)


def _of_region(name: str, host: str | None) -> Place:
    from hfdlc.publish.ecr import Ecr  # boto3 is slow to import, and a plain registry needs none

    ecr = Ecr.of(name)
    own, *pair = ecr.sign_in()
    kept = [(pair[0], pair[1])]

    def credentials(renew: bool) -> tuple[str, str]:
        if renew:
            kept[0] = ecr.sign_in()[1:]
        return kept[0]

    return Place(name, Registry(host or own, credentials), ecr)


def _docker(host: str) -> tuple[str, str] | None:
    try:
        found: dict[str, Any] | None = auth.load_config().resolve_authconfig(host)
    except DockerException:
        return None
    return (found["Username"], found["Password"]) if found and found.get("Username") else None
