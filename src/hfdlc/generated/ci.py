"""What CI runs, derived from the matrix: CodeBuild's build graph and a GitHub workflow.

Each job is one command of make. Source of the forms: AWS CodeBuild's reference of batch build specifications,
and GitHub's workflow syntax, both read in November 2026.
"""

import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML

from hfdlc.locks import lockfile
from hfdlc.locks.listing import listed
from hfdlc.matrix.cells import Cell
from hfdlc.project import Project
from hfdlc.publish.releases import FOLDER

HEADER = "# Derived from matrix.yaml by `hfdlc ci`: edit that.\n"
GRAPH, LAYERS, CELL, PUBLISH = (f"buildspec/{name}.yml" for name in ("batch", "layers", "cell", "publish"))
WORKFLOW = ".github/workflows/images.yml"
CPU, GPU = "LINUX_CONTAINER", "LINUX_GPU_CONTAINER"
SMALL, LARGE, WITH_GPU = "BUILD_GENERAL1_SMALL", "BUILD_GENERAL1_2XLARGE", "BUILD_GENERAL1_LARGE"
ROLE = "${{ vars.AWS_ROLE }}"
REGIONS = "${{ vars.REGIONS }}"
GOES_ON = "${{ !cancelled() && needs.list.result == 'success' }}"  # whatever became of the other jobs
SETTINGS = {
    "REGIONS": REGIONS,
    "HFDLC_CACHE": "${{ vars.HFDLC_CACHE }}",
    "COSIGN_KEY": "${{ vars.COSIGN_KEY }}",
    "GPU_RUNNER": "${{ vars.GPU_RUNNER }}",
}


def files(project: Project) -> dict[str, str]:
    """All CI files, whole, by their paths below the root."""
    return {
        GRAPH: _yaml(graph(project)),
        LAYERS: _yaml(_spec('make ci-layers CELL="$CELL"')),
        CELL: _yaml(_spec('make ci-cell CELL="$CELL"')),
        PUBLISH: _yaml(
            _spec('make ci-publish CELLS="$CELLS"') | {"artifacts": {"files": [f"{FOLDER}/**/*"]}}
        ),
        WORKFLOW: _yaml(workflow()),
    }


def graph(project: Project) -> dict[str, Any]:
    """CodeBuild's batch: shared layers first, then the cells, then the regions."""
    cells, builds = built(project), []
    after: dict[str, tuple[str, ...]] = {}  # a cell -> what it waits for
    for first, sharing in shared(cells):
        name = f"layers_{identifier(first)}"
        # Without them each cell makes its own, or fails by itself.
        builds.append(
            _build(name, LAYERS, (), LARGE, variables={"CELL": first.id}) | {"ignore-failure": True}
        )
        after |= {cell.id: (name,) for cell in sharing}
    for cell in cells:
        variables = {"CELL": cell.id}
        builds.append(
            _build(identifier(cell), CELL, after.get(cell.id, ()), _size(cell), _kind(cell), variables)
        )
    names = tuple(identifier(cell) for cell in cells)
    builds.append(
        _build("publish", PUBLISH, names, SMALL, variables={"CELLS": " ".join(cell.id for cell in cells)})
    )
    return {"version": 0.2, "batch": {"fast-fail": False, "build-graph": builds}}


def built(project: Project) -> list[Cell]:
    """The cells that CI can build: those whose locks lack nothing."""
    return [cell for cell in project.cells if lockfile.state(cell, project.root) == "locked"]


def shared(cells: Sequence[Cell]) -> list[tuple[Cell, list[Cell]]]:
    """Cells that share layers (all but their type is the same), below the one that makes them."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.framework, cell.tag), []).append(cell)
    return [(group[0], group) for group in groups.values() if len(group) > 1]


def identifier(cell: Cell) -> str:
    """A cell's id in the letters that CodeBuild allows, 128 of them at most."""
    return re.sub(r"[^A-Za-z0-9_]", "_", cell.id)


def _build(
    name: str,
    spec: str,
    after: tuple[str, ...],
    size: str,
    kind: str = CPU,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    env: dict[str, Any] = {"type": kind, "compute-type": size, "privileged-mode": True}
    if variables:
        env["variables"] = dict(variables)
    found: dict[str, Any] = {"identifier": name, "buildspec": spec, "env": env}
    return found | ({"depend-on": list(after)} if after else {})


def _kind(cell: Cell) -> str:
    return GPU if cell.cuda else CPU


def _size(cell: Cell) -> str:
    return WITH_GPU if cell.cuda else LARGE


def _spec(command: str) -> dict[str, Any]:
    return {
        "version": 0.2,
        "phases": {"install": {"commands": ["make setup"]}, "build": {"commands": [command]}},
    }


def workflow() -> dict[str, Any]:
    """GitHub's; the matrix comes from `hfdlc list --json`'s objects, the credentials by OIDC."""
    checkout = {"uses": "actions/checkout@v4"}
    sign_in = {
        "uses": "aws-actions/configure-aws-credentials@v4",
        "with": {"role-to-assume": ROLE, "aws-region": "${{ vars.AWS_REGION }}"},
    }
    outputs = {name: f"${{{{ steps.list.outputs.{name} }}}}" for name in ("cells", "layers", "ids")}
    by_layers = {
        "runs-on": "ubuntu-24.04",
        "needs": ["list"],
        "strategy": {
            "fail-fast": False,
            "matrix": {"include": "${{ fromJSON(needs.list.outputs.layers) }}"},
        },
        "steps": [checkout, sign_in, {"run": 'make ci-layers CELL="${{ matrix.id }}"'}],
    }
    by_cell = {
        "runs-on": "${{ matrix.device == 'gpu' && vars.GPU_RUNNER || 'ubuntu-24.04' }}",
        "needs": ["layers", "list"],
        "if": GOES_ON,  # without layers a cell makes its own, or fails by itself
        "strategy": {
            "fail-fast": False,
            "matrix": {"include": "${{ fromJSON(needs.list.outputs.cells) }}"},
        },
        "steps": [checkout, sign_in, {"run": 'make ci-cell CELL="${{ matrix.id }}"'}],
    }
    return {
        "name": "images",
        "on": {"push": {"branches": ["main"]}, "workflow_dispatch": None},
        "permissions": {"id-token": "write", "contents": "read"},
        "env": SETTINGS,
        "jobs": {
            "list": {
                "runs-on": "ubuntu-24.04",
                "outputs": outputs,
                "steps": [checkout, {"id": "list", "run": 'make -s ci-list >> "$GITHUB_OUTPUT"'}],
            },
            "layers": by_layers,
            "cells": by_cell,
            "publish": {
                "runs-on": "ubuntu-24.04",
                "needs": ["list", "cells"],
                "if": GOES_ON,  # it copies what is there, and names at its end what is not
                "steps": [
                    checkout,
                    sign_in,
                    {"run": 'make ci-publish CELLS="${{ needs.list.outputs.ids }}"'},
                    {
                        "uses": "actions/upload-artifact@v4",
                        "if": "${{ !cancelled() }}",
                        "with": {"name": FOLDER, "path": FOLDER},
                    },
                ],
            },
        },
    }


def without_runner(project: Project, environ: Mapping[str, str]) -> list[Cell]:
    """The cells that GitHub cannot build: those with a GPU, where GPU_RUNNER names no runner that has one."""
    return [] if environ.get("GPU_RUNNER") else [cell for cell in built(project) if cell.cuda]


def outputs(project: Project, environ: Mapping[str, str]) -> str:
    """What the first job tells the others, in the form of GITHUB_OUTPUT."""
    left_out = without_runner(project, environ)
    cells = [cell for cell in built(project) if cell not in left_out]
    rows = {"cells": cells, "layers": [first for first, _ in shared(cells)]}
    lines = [f"{name}={json.dumps([listed(cell, project) for cell in some])}" for name, some in rows.items()]
    return "\n".join([*lines, f"ids={' '.join(cell.id for cell in cells)}"])


def _yaml(content: Mapping[str, Any]) -> str:
    writer = YAML()
    writer.width = 4096
    writer.representer.ignore_aliases = lambda _: True
    writer.indent(mapping=2, sequence=4, offset=2)
    written = io.StringIO()
    writer.dump(dict(content), written)
    return HEADER + written.getvalue()
