"""What is attested of a published digest, as in-toto statements."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hfdlc
from hfdlc.checks.report import Report
from hfdlc.engine.detect import Engine
from hfdlc.errors import CommandFailed, HfdlcError
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.process import run
from hfdlc.project import Project
from hfdlc.publish.preflight import BASE, Candidate

STATEMENT = "https://in-toto.io/Statement/v1"
SBOM = "https://cyclonedx.org/bom"
PROVENANCE = "https://slsa.dev/provenance/v1"
CHECKS = "https://in-toto.io/attestation/test-result/v0.1"
KINDS = (SBOM, PROVENANCE, CHECKS)
BUILD_TYPE = "urn:hfdlc:build:1"


def statement(cell: str, digest: str, kind: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of one digest."""
    subject = {"name": cell, "digest": {"sha256": digest.removeprefix("sha256:")}}
    return {"_type": STATEMENT, "subject": [subject], "predicateType": kind, "predicate": dict(predicate)}


def provenance(candidate: Candidate, project: Project, engine: Engine) -> dict[str, Any]:
    """How the image came about: https://slsa.dev/spec/v1.0/provenance."""
    cell, root = candidate.cell, project.root
    files = ["matrix.yaml", f"{cell.folder}/Dockerfile", lockfile.INSTALLER_FILE]
    files += [lockfile.group_file(cell, group) for group in cell.groups]
    sources = [{"uri": path, "digest": {"sha256": _sha256(root / path)}} for path in files]
    bases = [{"uri": f"docker-image:{candidate.labels.get(BASE, cell.base_image())}", "name": "base"}]
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"cell": cell.id, "matrix": _line(cell, project)},
            "internalParameters": {"inputs": candidate.made_from},
            "resolvedDependencies": [*sources, *bases, *_revision(root)],
        },
        "runDetails": {
            "builder": {
                "id": "urn:hfdlc",
                "version": {
                    "hfdlc": hfdlc.__version__,
                    "docker": engine.version,
                    "buildkit": engine.buildkit,
                },
            },
        },
    }


def checks(report: Report) -> dict[str, Any]:
    """What the checks showed: https://github.com/in-toto/attestation, predicate test-result."""
    return {
        "result": "FAILED" if report.failed else "PASSED",
        "configuration": [
            {"name": "checks", "digest": {"sha256": report.checks.removeprefix("sha256:")}},
            {"name": "image in the engine", "digest": {"sha256": report.digest.removeprefix("sha256:")}},
        ],
        "date": report.date,
        "passedTests": report.passed,
        "failedTests": list(report.failed),
        "notRun": report.not_run,
    }


def _line(cell: Cell, project: Project) -> str:
    """The line of the matrix that the cell comes from."""
    for index, release in enumerate(project.matrix.file.releases):
        axes = (release.framework, release.transformers, release.python, release.os)
        own = ((cell.framework, cell.framework_version), cell.transformers_version, cell.python, cell.os)
        if axes == own and cell.type in release.cells:
            return project.matrix.document.where(("releases", index, "cells", cell.type))
    return "matrix.yaml"


def _revision(root: Path) -> list[dict[str, Any]]:
    """The commit that is checked out, where this is a clone."""
    try:
        commit = run(["git", "rev-parse", "HEAD"], cwd=root).stdout.strip()
    except (CommandFailed, HfdlcError):
        return []
    return [{"uri": "git+file:.", "digest": {"gitCommit": commit}}]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
