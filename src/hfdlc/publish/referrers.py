"""Proofs beside an image, by its digest: under cosign's tags, or as OCI's referrers."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests

from hfdlc.errors import HfdlcError
from hfdlc.oci.image import OCI_INDEX, OCI_MANIFEST, Manifest, digest_of
from hfdlc.oci.registry import Registry

CONFIG = "application/vnd.oci.image.config.v1+json"
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
DSSE = "application/vnd.dsse.envelope.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
ENDINGS = {"sig": SIMPLE_SIGNING, "att": DSSE}  # of cosign's tags, and what their layers are


@dataclass(frozen=True)
class Part:
    """One signed thing."""

    content: bytes
    annotations: Mapping[str, str]


@dataclass(frozen=True)
class Proof:
    """A manifest of signed things about one digest."""

    manifest: Manifest
    blobs: Mapping[str, bytes]


def proof(kind: str, parts: Sequence[Part], about: Manifest | None = None) -> Proof:
    """Signed things below one manifest; with `about` it refers to that image, as OCI 1.1 says it."""
    media = ENDINGS[kind]
    layers = [
        {
            "mediaType": media,
            "size": len(part.content),
            "digest": digest_of(part.content),
            "annotations": dict(part.annotations),
        }
        for part in parts
    ]
    config = json.dumps(
        {
            "architecture": "",
            "os": "",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        }
    ).encode()
    content: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": CONFIG, "size": len(config), "digest": digest_of(config)},
        "layers": layers,
    }
    if about:
        content["artifactType"] = media
        content["subject"] = {
            "mediaType": about.media_type,
            "size": len(about.content),
            "digest": about.digest,
        }
    manifest = Manifest(json.dumps(content, separators=(",", ":")).encode(), OCI_MANIFEST)
    return Proof(
        manifest, {digest_of(config): config, **{digest_of(part.content): part.content for part in parts}}
    )


def tag(digest: str, kind: str) -> str:
    """Cosign's tag for what belongs to a digest."""
    return f"{digest.replace(':', '-')}.{kind}"


def attach(registry: Registry, repository: str, digest: str, proofs: Mapping[str, Proof]) -> None:
    """Send proofs: those that refer to the image by their digest, the others under cosign's tags."""
    for kind, each in proofs.items():
        for blob, content in each.blobs.items():
            if not registry.has(repository, blob):
                registry.upload(
                    repository,
                    blob,
                    len(content),
                    lambda at, content=content: io.BytesIO(content[at:]),  # type: ignore[misc]
                )
        if "subject" not in each.manifest.parsed:
            registry.put(repository, tag(digest, kind), each.manifest)
            continue
        told = registry.put(repository, each.manifest.digest, each.manifest)
        if not any(name.lower() == "oci-subject" for name in told):
            _index(registry, repository, digest, each.manifest)


def _index(registry: Registry, repository: str, digest: str, manifest: Manifest) -> None:
    """Name a referrer in the index that OCI 1.1 has for registries that know no referrers."""
    reference = digest.replace(":", "-")
    known = (
        registry.manifest(repository, reference).parsed["manifests"]
        if registry.head(repository, reference)
        else []
    )
    entry = {
        "mediaType": manifest.media_type,
        "size": len(manifest.content),
        "digest": manifest.digest,
        "artifactType": manifest.parsed["artifactType"],
    }
    entries = [*(one for one in known if one["digest"] != manifest.digest), entry]
    content = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    registry.put(repository, reference, Manifest(json.dumps(content).encode(), OCI_INDEX))


def proofs(registry: Registry, repository: str, digest: str) -> dict[str, Proof]:
    """The proofs of a digest, by kind, wherever they are attached."""
    found = {}
    for kind in ENDINGS:
        if registry.head(repository, tag(digest, kind)):
            found[kind] = _read(registry, repository, tag(digest, kind))
    for entry in [] if found else _referrers(registry, repository, digest):
        for kind, media in ENDINGS.items():
            if entry.get("artifactType") == media:
                found[kind] = _read(registry, repository, entry["digest"])
    return found


def _referrers(registry: Registry, repository: str, digest: str) -> list[dict[str, Any]]:
    answer = registry.http.asked("GET", f"/v2/{registry.name(repository)}/referrers/{digest}")
    if answer.status_code == requests.codes.ok:
        return list(answer.json()["manifests"])
    reference = digest.replace(":", "-")
    if registry.head(repository, reference):
        return list(registry.manifest(repository, reference).parsed["manifests"])
    return []


def _read(registry: Registry, repository: str, reference: str) -> Proof:
    manifest = registry.manifest(repository, reference)
    return Proof(manifest, {b["digest"]: registry.small(repository, b["digest"]) for b in manifest.blobs})


def parts(proof: Proof) -> list[Part]:
    """The signed things of a proof.

    Raises HfdlcError where the manifest is none of a proof's.
    """
    try:
        return [
            Part(proof.blobs[layer["digest"]], layer.get("annotations") or {})
            for layer in proof.manifest.parsed["layers"]
        ]
    except KeyError as error:
        raise HfdlcError(f"is no proof: it lacks {error}", where=proof.manifest.digest) from error
