"""Verifying a published image: this reads its registry and the public key, nothing else."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hfdlc.dockerfile import inputs
from hfdlc.errors import HfdlcError, UserError
from hfdlc.oci.image import Manifest
from hfdlc.oci.registry import Registry
from hfdlc.publish import attestations, sbom, transfer
from hfdlc.publish.signing import Cosign
from hfdlc.publish.transfer import FromRegistry

UNSIGNED = "do not use it: hfdlc did not publish it"


@dataclass
class Verified:
    """The image, and what was verified of it."""

    digest: str  # of the manifest
    config_digest: str | None
    results: list[str] = field(default_factory=list)


def split(uri: str) -> tuple[str, str, str]:
    """HOST[/PREFIX], the repository, and the tag or digest.

    Raises UserError if it is none of these.
    """
    name, at, digest = uri.partition("@")
    address, _, last = name.rpartition("/")
    repository, colon, tag = last.partition(":")
    if not address or not (at or colon):
        raise UserError(
            "this is not an image in a registry",
            location=uri,
            allowed="HOST/REPOSITORY:TAG or HOST/REPOSITORY@DIGEST",
        )
    return address, repository, digest or tag


def verify(
    registry: Registry, repository: str, reference: str, cosign: Cosign, *, layers: bool = True
) -> Verified:
    """Verify the signature and the attestations, and compare them with the image; with `layers` the SBOM too.

    Raises NoMatch or HfdlcError that says what is wrong.
    """
    manifest = registry.manifest(repository, reference)
    found = transfer.attachments(registry, repository, manifest.digest)
    where = f"{registry.address}/{repository}@{manifest.digest}"
    for suffix, name in (("sig", "signature"), ("att", "attestations")):
        if suffix not in found:
            raise HfdlcError(f"has no {name}", location=where, hint=UNSIGNED)
    predicates = cosign.verify(repository, manifest, found, attestations.KINDS, where)
    result = Verified(manifest.digest, manifest.config_digest)
    result.results.append("the signature was made with the key, for this digest")
    result.results.append(f"{len(predicates)} attestations are signed, and about this digest")
    _compare(predicates, manifest, registry, repository, where)
    result.results.append("its inputs are those of its provenance, and its checks passed for this image")
    if not_run := predicates[attestations.CHECKS].get("notRun"):
        result.results.append(f"but these checks were not run: {', '.join(not_run)}")
    if layers:
        result.results.append(_compare_sbom(predicates, FromRegistry(registry, repository, manifest), where))
    return result


def _compare(
    predicates: Mapping[str, Any], manifest: Manifest, registry: Registry, repository: str, where: str
) -> None:
    """Compare provenance and check results with the image's configuration."""
    checked = attestations.config_digest(predicates)
    if checked and checked != manifest.config_digest:
        raise HfdlcError(
            f"its checks were run on the image {checked}, not {manifest.config_digest}", location=where
        )
    config = json.loads(registry.read(repository, str(manifest.config_digest)))
    built = predicates[attestations.PROVENANCE]["buildDefinition"]
    label = inputs.read((config.get("config", {}).get("Labels") or {}).get(inputs.LABEL))
    if changed := inputs.changed(built["internalParameters"]["inputs"], label):
        raise HfdlcError(f"its provenance and its label differ in {', '.join(changed)}", location=where)
    if predicates[attestations.CHECKS]["result"] != "PASSED":
        raise HfdlcError(
            f"its checks failed: {predicates[attestations.CHECKS]['failedTests']}", location=where
        )


def _compare_sbom(predicates: Mapping[str, Any], source: FromRegistry, where: str) -> str:
    contents = sbom.read(source.open(each["digest"], 0) for each in source.manifest.parsed["layers"])
    document = predicates[attestations.SBOM]
    sbom.compare(sbom.packages(document), contents.packages, where)
    count, licensed = len(contents.packages), sbom.with_license(document)
    return f"the {count} packages of its SBOM are those in its layers; {licensed} have a licence"
