"""The difference between registries and what is to be there."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from hfdlc.publish.targets import Place
from hfdlc.publish.transfer import FromEngine, Source


@dataclass(frozen=True)
class Difference:
    """One cell at one place."""

    place: Place
    cell: str
    state: str  # "missing", "there" with this very image, "different"
    exists: bool  # the repository
    here: str | None  # the digest that would be published, where it is known without packing
    there: str | None  # the digest that the tag has
    others: tuple[str, ...]  # repositories that may have layers of it

    @property
    def repository(self) -> str:
        """The cell's repository."""
        return self.cell.partition(":")[0]

    @property
    def tag(self) -> str:
        """The cell's tag."""
        return self.cell.partition(":")[2]

    def json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "place": self.place.name,
            "cell": self.cell,
            "state": self.state,
            "here": self.here,
            "there": self.there,
        }


def compare(
    places: Sequence[Place], sources: Mapping[str, Source], repositories: Sequence[str]
) -> list[Difference]:
    """Ask every place for every cell's tag; `repositories` are all those of the matrix."""
    pairs = [(place, repository) for place in places for repository in repositories]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pair: pair[0].has(pair[1]), pairs))  # remembered there

        def one(asked: tuple[Place, str]) -> Difference:
            place, cell = asked
            repository, _, tag = cell.partition(":")
            exists = place.has(repository)
            there = place.registry.head(repository, tag) if exists else None
            here = _known(sources[cell])
            state = "missing"
            if there:
                state = "there" if there == here or _same(sources[cell], place, cell, there) else "different"
            return Difference(place, cell, state, exists, here, there, tuple(repositories))

        return list(pool.map(one, [(place, cell) for cell in sources for place in places]))


def _known(source: Source) -> str | None:
    """The digest that would be published, if no layer has to be compressed to know it."""
    if isinstance(source, FromEngine):
        packed = source.packer.known(source.candidate)
        return packed.manifest.digest if packed else None
    return source.manifest.digest


def _same(source: Source, place: Place, cell: str, digest: str) -> bool:
    """Whether a published image holds the very same layers with the same labels, however it is packed."""
    if not isinstance(source, FromEngine):
        return False
    repository = cell.partition(":")[0]
    manifest = place.registry.manifest(repository, digest)
    if "config" not in manifest.parsed:
        return False
    config = json.loads(place.registry.small(repository, manifest.parsed["config"]["digest"]))
    layers = tuple(config["rootfs"]["diff_ids"])
    labels = config.get("config", {}).get("Labels") or {}
    return layers == source.candidate.layers and labels == source.candidate.labels
