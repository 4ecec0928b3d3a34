"""What tests of publishing without an engine share: stored images, statements, registries in memory."""

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfdlc.checks.report import Report
from hfdlc.matrix.cells import Cell
from hfdlc.oci import loopback
from hfdlc.oci.image import OCI_MANIFEST, Image, Manifest, digest_of
from hfdlc.oci.loopback import Content
from hfdlc.oci.store import LayerStore
from hfdlc.publish import attestations, targets
from hfdlc.publish.attestations import Predicates
from hfdlc.publish.preflight import Candidate
from hfdlc.publish.signing import Attachment
from hfdlc.publish.targets import Target
from parts import stored_layer

INPUTS = {"Dockerfile": "abc"}


def image(folder: Path, *layers: bytes, labels: Mapping[str, str] | None = None) -> Image:
    """An image of these layers, in the layer store of a folder."""
    folder.mkdir(exist_ok=True)
    store = LayerStore(folder)
    config = {
        "config": {"Labels": dict(labels or {})},
        "rootfs": {"diff_ids": [digest_of(layer) for layer in layers]},
    }
    made = Image(json.dumps(config).encode(), tuple(stored_layer(store, each) for each in layers), store)
    made.save()
    return made


def candidate(cell: Cell, made: Image) -> Candidate:
    """The image of a cell, checked."""
    labels = {"io.hfdlc.inputs": json.dumps(INPUTS)}
    report = Report(cell.id, made.manifest.digest, "2026-11-23", config_digest=made.config_digest)
    return Candidate(cell, made.manifest.digest, made.config_digest, (), labels, report)


def predicates(candidate: Candidate, _: Image) -> Predicates:
    """As much of them as a record needs."""
    components = [{"purl": "pkg:pypi/torch@2.13.0", "name": "torch", "version": "2.13.0"}]
    return {
        attestations.SBOM: {"components": components},
        attestations.PROVENANCE: {"buildDefinition": {"internalParameters": {"inputs": candidate.inputs}}},
    }


@dataclass
class Signer:
    """Makes attachments that are not signed; each signer's differ, as those of two runs do."""

    name: str = "one"
    signed: list[str] = field(default_factory=list)

    def sign(
        self, repository: str, manifest: Manifest, predicates: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Attachment]:
        self.signed.append(manifest.digest)
        statements = [
            {"predicateType": kind, "predicate": predicate, "by": self.name, "about": manifest.digest}
            for kind, predicate in predicates.items()
        ]
        envelopes = [{"payload": base64.b64encode(json.dumps(each).encode()).decode()} for each in statements]
        signature = f"{self.name} signed {repository}@{manifest.digest}".encode()
        return {
            "sig": _attachment([signature]),
            "att": _attachment([json.dumps(e).encode() for e in envelopes]),
        }


def _attachment(contents: list[bytes]) -> Attachment:
    config = b"{}"
    described = [{"digest": digest_of(each), "size": len(each)} for each in contents]
    manifest = {"config": {"digest": digest_of(config), "size": 2}, "layers": described}
    blobs = {digest_of(each): each for each in (config, *contents)}
    return Attachment(Manifest(json.dumps(manifest).encode(), OCI_MANIFEST), blobs)


@contextmanager
def target() -> Iterator[tuple[Target, Content]]:
    """An empty registry in memory, as a target, and what it holds."""
    with loopback.serving() as (host, content):
        yield targets.of_registry(host), content
