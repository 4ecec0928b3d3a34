"""Removing old releases from ECR, by digest, and never one that a tag of the matrix names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hfdlc.project import Project
from hfdlc.publish.ecr import Ecr

# Cosign's tags, and the index of referrers in registries without a referrers API.
ATTACHMENT = re.compile(r"(?P<about>sha256-[0-9a-f]{64})(\.\w+)?")


@dataclass(frozen=True)
class Image:
    """One image of a repository; its attachments are removed with it."""

    repository: str
    digest: str
    tags: tuple[str, ...]
    pushed: datetime
    bytes: int
    attachments: tuple[str, ...] = ()  # digests of its signatures and attestations

    def json(self) -> dict[str, Any]:
        """One entry of `hfdlc prune --json`."""
        return {
            "image": f"{self.repository}@{self.digest}",
            "tags": list(self.tags),
            "pushed": self.pushed.isoformat(),
            "bytes": self.bytes,
        }


def images(ecr: Ecr, repository: str) -> list[Image]:
    """The images of a repository, the newest first, each with its attachments, which are not images."""
    found = ecr.images(repository)
    attachments: dict[str, list[str]] = {}
    for one in found:
        for tag in one.get("imageTags", []):
            if match := ATTACHMENT.fullmatch(tag):
                attachments.setdefault(match["about"].replace("-", ":"), []).append(one["imageDigest"])
    untagged = [one["imageDigest"] for one in found if not one.get("imageTags")]
    for digest, about in ecr.subjects(repository, untagged).items():
        attachments.setdefault(about, []).append(digest)
    attached = {digest for digests in attachments.values() for digest in digests}
    releases = [
        Image(
            repository,
            one["imageDigest"],
            tuple(sorted(one.get("imageTags", []))),
            one["imagePushedAt"],
            int(one.get("imageSizeInBytes", 0)),
            tuple(attachments.get(one["imageDigest"], ())),
        )
        for one in found
        if one["imageDigest"] not in attached
    ]
    return sorted(releases, key=lambda image: (image.pushed, image.digest), reverse=True)


def old(found: Sequence[Image], keep: int, current: Sequence[str]) -> list[Image]:
    """The images beyond the newest `keep`, without those that one of the `current` tags names."""
    return [image for image in found[keep:] if not {*image.tags} & {*current}]


def prune(project: Project, ecr: Ecr, keep: int, *, dry_run: bool) -> list[Image]:
    """Remove old images from every repository of the matrix, and list them; with `dry_run` only list them."""
    removed = []
    for repository in project.repositories:
        tags = [cell.tag for cell in project.cells if cell.repository == repository]
        outdated = old(images(ecr, repository), keep, tags)
        if outdated and not dry_run:
            # The images first: an image without its attachments would look as if it was never signed.
            ecr.remove(repository, [image.digest for image in outdated])
            ecr.remove(repository, [digest for image in outdated for digest in image.attachments])
        removed += outdated
    return removed
