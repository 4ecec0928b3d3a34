"""The record of what was published, in releases/: when, where, from which inputs, with which packages."""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from hfdlc.errors import HfdlcError, UserError
from hfdlc.state import write_whole

FOLDER = "releases"


class Layer(BaseModel):
    """A layer as it is pulled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    size: int  # bytes, compressed


class Release(BaseModel):
    """One published image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: str
    digest: str  # of the manifest
    config_digest: str = ""  # the identity of the image; empty in records of older versions
    targets: dict[str, str]  # region or registry -> when, ISO, UTC
    inputs: dict[str, str]
    packages: dict[str, dict[str, str]]  # pypi, deb -> name -> version
    layers: list[Layer]

    @property
    def bytes(self) -> int:
        """What a client that has none of its layers pulls."""
        return sum(layer.size for layer in self.layers)


def file(cell_id: str, root: Path) -> Path:
    """The path of a cell's record."""
    repository, _, tag = cell_id.partition(":")
    return root / FOLDER / repository / f"{tag}.json"


def read(cell_id: str, root: Path) -> Release | None:
    """The record of a cell; None if it was never published.

    Raises HfdlcError if it is damaged.
    """
    path = file(cell_id, root)
    try:
        return Release.model_validate_json(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError) as error:
        raise HfdlcError(
            f"is damaged: {error}",
            location=str(path.relative_to(root)),
            hint=f"restore it: git checkout -- {path.relative_to(root)}",
        ) from error


def keep(release: Release, root: Path) -> None:
    """Write a record; earlier targets of the same digest stay in it."""
    before = read(release.cell, root)
    if before and before.digest == release.digest:
        release = release.model_copy(update={"targets": {**release.targets, **before.targets}})
    text = json.dumps(release.model_dump(), indent=1, sort_keys=True) + "\n"
    write_whole(file(release.cell, root), text)


def needed(cell_id: str, root: Path) -> Release:
    """The record of a cell.

    Raises UserError if it was never published.
    """
    found = read(cell_id, root)
    if not found:
        known = sorted(path.relative_to(root / FOLDER) for path in (root / FOLDER).glob("*/*.json"))
        names = [f"{path.parent}:{path.name.removesuffix('.json')}" for path in known]
        raise UserError(
            "was never published",
            location=cell_id,
            allowed=", ".join(names) or "nothing has been published yet",
        )
    return found


def changes(old: Release, new: Release) -> dict[str, object]:
    """What differs between two releases, and the bytes to pull for a client that has the old one."""
    have = {layer.digest for layer in old.layers}
    return {
        "old": {"cell": old.cell, "digest": old.digest, "bytes": old.bytes},
        "new": {"cell": new.cell, "digest": new.digest, "bytes": new.bytes},
        "packages": differing(old, new),
        "pull": sum(layer.size for layer in new.layers if layer.digest not in have),
    }


def differing(old: Release, new: Release) -> dict[str, dict[str, list[str | None]]]:
    """The packages that changed, by their kind."""
    kinds = sorted({*old.packages, *new.packages})
    return {kind: _differ(old.packages.get(kind, {}), new.packages.get(kind, {})) for kind in kinds}


def _differ(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, list[str | None]]:
    return {
        name: [old.get(name), new.get(name)]
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    }
