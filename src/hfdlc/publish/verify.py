"""Holding a published image against its proofs: only its registry and the public key are asked."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast

from hfdlc.dockerfile import inputs
from hfdlc.errors import HfdlcError, UserError
from hfdlc.oci.image import Manifest
from hfdlc.oci.registry import Registry
from hfdlc.publish import attestations, referrers, sbom, signing
from hfdlc.publish.signing import Cosign, NoMatch
from hfdlc.publish.transfer import FromRegistry

UNSIGNED = "do not use it: hfdlc did not publish it"


@dataclass
class Verified:
    """What holds."""

    digest: str
    holds: list[str] = field(default_factory=list)


def take_apart(uri: str) -> tuple[str, str, str]:
    """HOST[/PREFIX], the repository, and the tag or digest.

    Raises UserError where it is none of these.
    """
    name, at, digest = uri.partition("@")
    place, _, last = name.rpartition("/")
    repository, colon, tag = last.partition(":")
    if not place or not (at or colon):
        raise UserError(
            "this is no image of a registry",
            where=uri,
            allowed="HOST/REPOSITORY:TAG or …@DIGEST",
        )
    return place, repository, digest or tag


def verify(
    registry: Registry, repository: str, reference: str, verifier: Cosign, *, layers: bool = True
) -> Verified:
    """Check an image's signature, statements and bill; with `layers` the bill against what is in them.

    Raises HfdlcError that says what does not hold.
    """
    manifest = registry.manifest(repository, reference)
    found = referrers.proofs(registry, repository, manifest.digest)
    where = f"{registry.place}/{repository}@{manifest.digest}"
    for kind, what in (("sig", "signature"), ("att", "statement")):
        if kind not in found:
            raise HfdlcError(f"has no {what}", where=where, then=UNSIGNED)
    result = Verified(manifest.digest)
    if not (signatures := referrers.parts(found["sig"])):
        raise HfdlcError("its manifest of signatures holds none", where=where, then=UNSIGNED)
    for part in signatures:
        verifier.verify(part.content, part.annotations.get(referrers.SIGNATURE, ""), where)
        said = json.loads(part.content)["critical"]["image"]["docker-manifest-digest"]
        if said != manifest.digest:
            raise NoMatch(f"the signature is that of {said}", where=where)
    result.holds.append("the signature is the key's, and of this digest")
    told = _statements(referrers.parts(found["att"]), manifest, verifier, where)
    result.holds.append(f"{len(told)} signed statements are about this digest")
    config = json.loads(registry.small(repository, manifest.parsed["config"]["digest"]))
    _tally(told, config, where)
    result.holds.append("it was made from the inputs that its provenance tells, and its checks passed")
    if not_run := told[attestations.CHECKS].get("notRun"):
        result.holds.append(f"but these checks were not run: {', '.join(not_run)}")
    if layers:
        seen = sbom.look(_layers(FromRegistry(registry, repository, manifest)))
        bill = told[attestations.SBOM]
        sbom.compare(sbom.packages(bill, "pypi"), seen.python, where)
        sbom.compare(sbom.packages(bill, "deb"), seen.system, where)
        count = len(seen.python) + len(seen.system)
        result.holds.append(f"the {count} packages of its SBOM are those in its layers")
    return result


def _statements(
    parts: list[referrers.Part], manifest: Manifest, verifier: Cosign, where: str
) -> dict[str, Any]:
    """The predicates by type, each signed and about this digest."""
    told = {}
    for part in parts:
        statement = signing.opened(part.content, verifier)
        subject = statement["subject"][0]["digest"]["sha256"]
        if f"sha256:{subject}" != manifest.digest:
            raise NoMatch(f"{statement['predicateType']} is about sha256:{subject}", where=where)
        told[statement["predicateType"]] = statement["predicate"]
    if missing := [kind for kind in attestations.KINDS if kind not in told]:
        raise HfdlcError(f"lacks the statement {', '.join(missing)}", where=where)
    return told


def _tally(told: dict[str, Any], config: dict[str, Any], where: str) -> None:
    """What the statements say, against what the image says of itself."""
    built = told[attestations.PROVENANCE]["buildDefinition"]
    label = inputs.read((config.get("config", {}).get("Labels") or {}).get(inputs.LABEL))
    if differ := inputs.changed(built["internalParameters"]["inputs"], label):
        raise HfdlcError(f"its provenance and its label differ in {', '.join(differ)}", where=where)
    if told[attestations.CHECKS]["result"] != "PASSED":
        raise HfdlcError(f"its checks failed: {told[attestations.CHECKS]['failedTests']}", where=where)


def _layers(source: FromRegistry) -> Iterator[IO[bytes]]:
    for layer in source.manifest.parsed["layers"]:
        yield cast("IO[bytes]", gzip.GzipFile(fileobj=source.open(layer["digest"], 0)))
