"""A registry's repositories: blobs and manifests by digest, as the OCI distribution specification says.

No client that can be had sends blobs in parts and goes on where a broken connection stopped: skopeo and
oras begin a blob anew. Source: https://github.com/opencontainers/distribution-spec, version 1.1.
"""

from collections.abc import Callable, Iterator
from typing import IO

import requests

from hfdlc.errors import HfdlcError
from hfdlc.oci.image import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Manifest, digest_of
from hfdlc.oci.transport import Credentials, Passing, Transport, letters, retrying

PART = 16 << 20  # bytes sent in one request; ECR wants 5 MiB at least
ACCEPT = ", ".join((DOCKER_MANIFEST, OCI_MANIFEST, OCI_INDEX))

Opened = Callable[[int], IO[bytes]]  # a blob from an offset on


class Registry:
    """One registry, or a part of it below a prefix."""

    def __init__(self, place: str, credentials: Credentials = lambda _: None) -> None:
        self.host, _, self.prefix = place.partition("/")
        self.place = place
        self.http = Transport(self.host, credentials)

    def name(self, repository: str) -> str:
        """The repository's name at the registry."""
        return f"{self.prefix}/{repository}" if self.prefix else repository

    def head(self, repository: str, reference: str) -> str | None:
        """The digest that a tag or a digest stands for; None where it is not there."""
        url = f"/v2/{self.name(repository)}/manifests/{reference}"
        answer = self.http.asked("HEAD", url, headers={"Accept": ACCEPT})
        if answer.status_code == requests.codes.not_found:
            return None
        return answer.headers.get("Docker-Content-Digest") or self.manifest(repository, reference).digest

    def manifest(self, repository: str, reference: str) -> Manifest:
        """A manifest, held against its digest where that was asked for.

        Raises HfdlcError where there is none.
        """
        url = f"/v2/{self.name(repository)}/manifests/{reference}"
        answer = self.http.asked("GET", url, headers={"Accept": ACCEPT})
        where = f"{self.place}/{repository}"
        if answer.status_code == requests.codes.not_found:
            raise HfdlcError("there is no such image", where=f"{where}:{reference}")
        found = Manifest(answer.content, answer.headers["Content-Type"].partition(";")[0])
        if reference.startswith("sha256:") and found.digest != reference:
            raise HfdlcError(f"the registry gave {found.digest} instead", where=f"{where}@{reference}")
        return found

    def put(self, repository: str, reference: str, manifest: Manifest) -> dict[str, str]:
        """Store a manifest under a tag or its digest; the answer's headers.

        Raises HfdlcError where the registry refuses. ECR refuses an immutable tag even to what it names
        already (https://github.com/aws/containers-roadmap/issues/2179): that is no error here.
        """
        url = f"/v2/{self.name(repository)}/manifests/{reference}"
        headers = {"Content-Type": manifest.media_type}
        answer = self.http.asked("PUT", url, data=manifest.content, headers=headers)
        where = f"{self.place}/{repository}:{reference}"
        if answer.status_code != requests.codes.created and (there := self.head(repository, reference)):
            if there != manifest.digest:
                raise HfdlcError(
                    f"has {there}, and the registry takes no other: {_said(answer)}", where=where
                )
            return dict(answer.headers)
        _expect(answer, requests.codes.created, where)
        return dict(answer.headers)

    def has(self, repository: str, digest: str) -> bool:
        """Whether a blob is in the repository."""
        answer = self.http.asked("HEAD", f"/v2/{self.name(repository)}/blobs/{digest}")
        return bool(answer.status_code == requests.codes.ok)

    def mount(self, repository: str, digest: str, source: str) -> bool:
        """Take a blob over from another repository; whether the registry did."""
        url = f"/v2/{self.name(repository)}/blobs/uploads/"
        answer = self.http.asked("POST", url, params={"mount": digest, "from": self.name(source)})
        if answer.status_code == requests.codes.accepted:  # it began an upload instead
            self.http.asked("DELETE", answer.headers["Location"])
        return bool(answer.status_code == requests.codes.created)

    def upload(self, repository: str, digest: str, size: int, opened: Opened) -> None:
        """Send a blob in parts; where a request fails, it goes on from what the registry has."""
        begun: list[str] = []  # the address of the upload, as the registry last told it

        def go() -> None:
            there = self._reached(begun[0]) if begun else None
            url, offset = there or (self._begin(repository), 0)
            begun[:] = [url]
            with opened(offset) as content:
                while part := content.read(PART):
                    begun[0] = self._part(begun[0], part, offset)
                    offset += len(part)
            if offset != size:
                raise HfdlcError(f"{digest} has {offset} bytes, not {size}", where=repository)
            answer = self.http.once("PUT", begun[0], params={"digest": digest})
            if answer.status_code == requests.codes.not_found and not self.has(repository, digest):
                raise Passing(f"{digest}: the upload is gone")
            if answer.status_code not in (requests.codes.created, requests.codes.not_found):
                raise HfdlcError(f"the registry refuses {digest}: {answer.text[:300]}", where=self.place)

        with letters(self.host):
            retrying()(go)

    def _begin(self, repository: str) -> str:
        answer = self.http.once("POST", f"/v2/{self.name(repository)}/blobs/uploads/")
        _expect(answer, requests.codes.accepted, f"{self.place}/{repository}")
        return str(answer.headers["Location"])

    def _part(self, url: str, part: bytes, offset: int) -> str:
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{offset}-{offset + len(part) - 1}",
        }
        answer = self.http.once("PATCH", url, data=part, headers=headers)
        if answer.status_code != requests.codes.accepted:
            raise Passing(f"PATCH {url}: {answer.status_code} {answer.text[:200]}")
        return str(answer.headers["Location"])

    def _reached(self, url: str) -> tuple[str, int] | None:
        """Where an upload goes on, and from which byte; None where the registry knows it no more."""
        answer = self.http.once("GET", url)
        end = answer.headers.get("Range", "0-0").rpartition("-")[2]
        if answer.status_code != requests.codes.no_content or end in ("", "0"):  # "0-0" may be none or one
            return None
        return answer.headers.get("Location", url), int(end) + 1

    def blob(self, repository: str, digest: str, offset: int = 0) -> Iterator[bytes]:
        """A blob from an offset on, piece by piece; a broken connection is taken up again."""
        at = offset

        def answer() -> requests.Response:
            url = f"/v2/{self.name(repository)}/blobs/{digest}"
            headers = {"Range": f"bytes={at}-"} if at else {}
            return self.http.once("GET", url, stream=True, headers=headers)

        with letters(self.host):
            for attempt in retrying():
                with attempt, answer() as told:
                    if told.status_code == requests.codes.not_found:
                        raise HfdlcError("has no such blob", where=f"{self.place}/{repository}@{digest}")
                    length = int(told.headers.get("Content-Length", "0"))
                    start = at
                    for piece in told.iter_content(1 << 20):
                        at += len(piece)
                        yield piece
                    if at - start != length:
                        raise Passing(f"{digest}: the connection ended early")

    def small(self, repository: str, digest: str) -> bytes:
        """A blob that fits into memory, held against its digest."""
        content = b"".join(self.blob(repository, digest))
        if digest_of(content) != digest:
            raise HfdlcError("the registry gave another content", where=f"{self.place}/{repository}@{digest}")
        return content

    def tags(self, repository: str) -> list[str]:
        """All tags of a repository."""
        url: str | None = f"/v2/{self.name(repository)}/tags/list?n=1000"
        found: list[str] = []
        while url:
            answer = self.http.asked("GET", url)
            found += (answer.json().get("tags") or []) if answer.ok else []
            url = answer.links.get("next", {}).get("url")
        return found


def _expect(answer: requests.Response, code: int, where: str) -> None:
    if answer.status_code != code:
        raise HfdlcError(f"the registry refuses: {_said(answer)}", where=where)


def _said(answer: requests.Response) -> str:
    return f"{answer.status_code} {answer.text[:300]}"
