"""The predicates that are attested of an image: SBOM, provenance and check results."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hfdlc
from hfdlc.checks.report import Report
from hfdlc.engine.buildx import Builder
from hfdlc.engine.detect import Engine
from hfdlc.locks import lockfile
from hfdlc.oci.image import Image
from hfdlc.project import Project
from hfdlc.publish import sbom
from hfdlc.publish.preflight import BASE, Candidate

SBOM = "https://cyclonedx.org/bom"
PROVENANCE = "https://slsa.dev/provenance/v1"
CHECKS = "https://in-toto.io/attestation/test-result/v0.1"
KINDS = (SBOM, PROVENANCE, CHECKS)
BUILD_TYPE = "urn:hfdlc:build:1"

Predicates = dict[str, dict[str, Any]]  # predicate type -> predicate


def predicates(
    project: Project, engine: Engine, builder: Builder, candidate: Candidate, image: Image
) -> Predicates:
    """What is attested of an image.

    Raises HfdlcError if its layers hold other packages than its lock files list.
    """
    contents = sbom.read(image.open(layer.digest, 0) for layer in image.layers)
    sbom.compare_with_locks(candidate.cell, project.root, contents)
    return {
        SBOM: sbom.make(candidate.cell, candidate.config_digest, contents),
        PROVENANCE: provenance(candidate, project, engine, builder),
        CHECKS: checks(candidate.report, candidate.config_digest),
    }


def provenance(candidate: Candidate, project: Project, engine: Engine, builder: Builder) -> dict[str, Any]:
    """How the image was built: https://slsa.dev/spec/v1.0/provenance."""
    cell, root = candidate.cell, project.root
    files = ["matrix.yaml", f"{cell.folder}/Dockerfile", lockfile.installer_file(cell.installer_python)]
    files += [lockfile.group_file(cell, group) for group in cell.groups]
    sources = [{"uri": path, "digest": {"sha256": _sha256(root / path)}} for path in files]
    revision = (
        [{"uri": "git+file:.", "digest": {"gitCommit": commit}}] if (commit := project.commit()) else []
    )
    line = project.matrix.document.where(("releases", cell.release, "cells", cell.type))
    bases = [{"uri": f"docker-image:{candidate.labels.get(BASE, cell.base_image())}", "name": "base"}]
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"cell": cell.id, "matrix": line},
            "internalParameters": {
                "inputs": candidate.inputs,
                "configDigest": candidate.config_digest,
                "builtManifestDigest": candidate.image,
            },
            "resolvedDependencies": [*sources, *bases, *revision],
        },
        "runDetails": {
            "builder": {
                "id": "urn:hfdlc",
                "version": {
                    "hfdlc": hfdlc.__version__,
                    "docker": engine.version,
                    "buildkit": builder.version or engine.buildkit,
                },
            },
        },
    }


def checks(report: Report, config_digest: str) -> dict[str, Any]:
    """What the checks showed: https://github.com/in-toto/attestation, predicate test-result."""
    return {
        "result": "FAILED" if report.failed else "PASSED",
        "configuration": [
            {"name": "checks", "digest": _digest(report.checks)},
            {"name": "image configuration", "digest": _digest(config_digest)},
            {"name": "image in the engine", "digest": _digest(report.digest)},
        ],
        "date": report.date,
        "passedTests": report.passed,
        "failedTests": list(report.failed),
        "notRun": report.not_run,
    }


def config_digest(predicates: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The config digest of the image whose checks were attested; None in attestations of older versions."""
    for part in predicates[CHECKS].get("configuration", []):
        if part["name"] == "image configuration":
            return f"sha256:{part['digest']['sha256']}"
    return None


def _digest(digest: str) -> dict[str, str]:
    return {"sha256": digest.removeprefix("sha256:")}


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
