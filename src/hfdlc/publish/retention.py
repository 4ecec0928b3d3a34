"""Removing old releases: by a rule, by digest, and never one that the matrix still names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hfdlc.project import Project
from hfdlc.publish.ecr import Ecr

# Cosign's tags, and that of OCI's index for registries without referrers.
PROOF = re.compile(r"(?P<about>sha256-[0-9a-f]{64})(\.\w+)?")


@dataclass(frozen=True)
class Image:
    """One image of a repository; the proofs that hang on it go with it."""

    repository: str
    digest: str
    tags: tuple[str, ...]
    pushed: datetime
    bytes: int
    proofs: tuple[str, ...] = ()  # their digests

    def json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "image": f"{self.repository}@{self.digest}",
            "tags": list(self.tags),
            "pushed": self.pushed.isoformat(),
            "bytes": self.bytes,
        }


def images(ecr: Ecr, repository: str) -> list[Image]:
    """The images of a repository, the newest first, each with its proofs; proofs are no images."""
    told = ecr.images(repository)
    proofs: dict[str, list[str]] = {}
    for one in told:
        for tag in one.get("imageTags", []):
            if proof := PROOF.fullmatch(tag):
                proofs.setdefault(proof["about"].replace("-", ":"), []).append(one["imageDigest"])
    untagged = [one["imageDigest"] for one in told if not one.get("imageTags")]
    for digest, about in ecr.subjects(repository, untagged).items():
        proofs.setdefault(about, []).append(digest)
    hanging = {digest for digests in proofs.values() for digest in digests}
    found = [
        Image(
            repository,
            one["imageDigest"],
            tuple(sorted(one.get("imageTags", []))),
            one["imagePushedAt"],
            int(one.get("imageSizeInBytes", 0)),
            tuple(proofs.get(one["imageDigest"], ())),
        )
        for one in told
        if one["imageDigest"] not in hanging
    ]
    return sorted(found, key=lambda image: (image.pushed, image.digest), reverse=True)


def old(found: Sequence[Image], keep: int, current: Sequence[str]) -> list[Image]:
    """The images beyond the newest `keep`, but for those that one of the `current` tags names."""
    return [image for image in found[keep:] if not {*image.tags} & {*current}]


def prune(project: Project, ecr: Ecr, keep: int, *, dry_run: bool) -> list[Image]:
    """Remove what is old in every repository of the matrix, and give it; with `dry_run` only give it."""
    gone = []
    for repository in sorted({cell.repository for cell in project.cells}):
        tags = [cell.tag for cell in project.cells if cell.repository == repository]
        doomed = old(images(ecr, repository), keep, tags)
        if doomed and not dry_run:
            # The images first: proofs without an image say nothing wrong, the other way round they would.
            ecr.remove(repository, [image.digest for image in doomed])
            ecr.remove(repository, [proof for image in doomed for proof in image.proofs])
        gone += doomed
    return gone
