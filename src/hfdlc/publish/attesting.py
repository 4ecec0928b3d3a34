"""The proofs of one image: what it holds, how it came about, what its checks showed, and a signature."""

from typing import Any

from hfdlc.engine.detect import Engine
from hfdlc.oci.image import Manifest
from hfdlc.project import Project
from hfdlc.publish import attestations, referrers, sbom, signing
from hfdlc.publish.referrers import Part, Proof
from hfdlc.publish.signing import Cosign
from hfdlc.publish.transfer import FromEngine

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
        attestations.SBOM: sbom.make(candidate.cell, digest, python, seen),
        attestations.PROVENANCE: attestations.provenance(candidate, project, engine),
        attestations.CHECKS: attestations.checks(candidate.report),
    }


def signed(
    cell_id: str, manifest: Manifest, told: Statements, signer: Cosign, *, refer: bool
) -> dict[str, Proof]:
    """The proofs as they are attached: a signature of the digest, and the signed statements."""
    repository = cell_id.partition(":")[0]
    payload = signing.payload(repository, manifest.digest)
    signature = Part(payload, {referrers.SIGNATURE: signer.sign(payload)})
    attested = [
        Part(
            signing.envelope(attestations.statement(cell_id, manifest.digest, kind, predicate), signer),
            {referrers.SIGNATURE: "", "predicateType": kind},
        )
        for kind, predicate in told.items()
    ]
    about = manifest if refer else None
    return {"sig": referrers.proof("sig", [signature], about), "att": referrers.proof("att", attested, about)}
