"""Cells as JSON. README documents the keys of `hfdlc list --json`, which stay as they are."""

from typing import Any

from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.project import Project


def listed(cell: Cell, project: Project) -> dict[str, Any]:
    """One object of `hfdlc list --json`."""
    return {
        "id": cell.id,
        "repository": cell.repository,
        "tag": cell.tag,
        "framework": cell.framework,
        "framework_version": cell.framework_version,
        "transformers_version": cell.transformers_version,
        "datasets_version": cell.datasets_version,
        "type": cell.type,
        "device": cell.device,
        "python": cell.python,
        "cuda": cell.cuda,
        "os": cell.os,
        "state": lockfile.state(cell, project.root),
    }


def shown(cell: Cell, project: Project) -> dict[str, Any]:
    """One object of `hfdlc show --json`."""
    locked = lockfile.read(cell, project.root)
    return listed(cell, project) | {
        "folder": cell.folder,
        "base": cell.base_image(),
        "requirements": list(cell.requirements()),
        "page": cell.source.page,
        "missing": lockfile.missing(cell, project.root),
        "cutoff": cell.cutoff.isoformat(),
        "size_budget": cell.size,
        "packages": {group: {e.name: e.version for e in entries} for group, entries in locked.items()},
    }
