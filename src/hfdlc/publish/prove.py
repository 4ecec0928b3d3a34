"""The proofs of one image: what it holds, how it came about, what its checks showed, and a signature."""

from typing import Any

from hfdlc.engine import Engine
from hfdlc.project import Project
from hfdlc.publish import attach, sbom, sign, statements
from hfdlc.publish.attach import Part, Proof
from hfdlc.publish.copying import FromEngine
from hfdlc.publish.registry import Manifest
from hfdlc.publish.sign import Cosign

Statements = dict[str, dict[str, Any]]  # predicate type -> predicate


def predicates(source: FromEngine, project: Project, engine: Engine) -> Statements:
    """What is attested.

    Raises HfdlcError where the bill does not match the image's own layers.
    """
    candidate = source.candidate
    digest = source.manifest.digest
    layers = source.manifest.parsed["layers"]
    seen = sbom.look(source.open(layer["digest"], 0) for layer in layers)
    python = sbom.expected(candidate.cell, project.root)
    sbom.compare(python, seen.python, candidate.cell.id)
    return {
        statements.SBOM: sbom.make(candidate.cell, digest, python, seen),
        statements.PROVENANCE: statements.provenance(candidate, project, engine),
        statements.CHECKS: statements.checks(candidate.report),
    }


def signed(
    cell_id: str, manifest: Manifest, told: Statements, signer: Cosign, *, refer: bool
) -> dict[str, Proof]:
    """The proofs as they are attached: a signature of the digest, and the signed statements."""
    repository = cell_id.partition(":")[0]
    payload = sign.payload(repository, manifest.digest)
    signature = Part(payload, {attach.SIGNATURE: signer.sign(payload)})
    attested = [
        Part(
            sign.envelope(statements.statement(cell_id, manifest.digest, kind, predicate), signer),
            {attach.SIGNATURE: "", "predicateType": kind},
        )
        for kind, predicate in told.items()
    ]
    about = manifest if refer else None
    return {"sig": attach.proof("sig", [signature], about), "att": attach.proof("att", attested, about)}
