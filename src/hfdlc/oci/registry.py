"""A client of the distribution API: blobs and manifests of a registry's repositories.

Our own, because skopeo and oras send a blob from its start again after a broken connection; this one sends it
in parts and resumes. Specification: https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md
"""

from collections.abc import Callable, Iterator
from typing import IO

import requests

from hfdlc.errors import HfdlcError
from hfdlc.oci.image import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Manifest, digest_of
from hfdlc.oci.transport import Credentials, Transient, Transport, reporting, retrying

PART = 16 << 20  # bytes sent in one request; ECR requires at least 5 MiB
PLAIN = "http://"  # before the address of a registry without TLS
ACCEPT = ", ".join((DOCKER_MANIFEST, OCI_MANIFEST, OCI_INDEX))

Open = Callable[[int], IO[bytes]]  # gives a blob from an offset on


class Conflict(HfdlcError):
    """A tag exists with another digest, and does not move."""


class Registry:
    """The registry `address`: HOST, or HOST/PREFIX for the repositories below a prefix.

    With `http://` before it, the registry is used without TLS.
    """

    def __init__(self, address: str, credentials: Credentials = lambda _: None) -> None:
        self.address = address.removeprefix(PLAIN)
        self.host, _, self.prefix = self.address.partition("/")
        self.http = Transport(self.host, credentials, plain_http=address.startswith(PLAIN))

    def name(self, repository: str) -> str:
        """The repository's name at the registry, with the prefix."""
        return f"{self.prefix}/{repository}" if self.prefix else repository

    def head(self, repository: str, reference: str) -> str | None:
        """The manifest digest of a tag or digest; None if it does not exist."""
        url = f"/v2/{self.name(repository)}/manifests/{reference}"
        response = self.http.request("HEAD", url, headers={"Accept": ACCEPT})
        if response.status_code == requests.codes.not_found:
            return None
        digest = response.headers.get("Docker-Content-Digest") if response.ok else None
        return digest or self.manifest(repository, reference).digest

    def manifest(self, repository: str, reference: str) -> Manifest:
        """The manifest of a tag or digest; compared with the digest if that is the reference.

        Raises HfdlcError if there is none, or if the registry refuses.
        """
        url = f"/v2/{self.name(repository)}/manifests/{reference}"
        response = self.http.request("GET", url, headers={"Accept": ACCEPT})
        where = f"{self.address}/{repository}"
        if response.status_code == requests.codes.not_found:
            raise HfdlcError("there is no such image", location=f"{where}:{reference}")
        _expect(response, requests.codes.ok, f"{where}:{reference}")
        if not _is_object(response):
            raise HfdlcError("this host answers with something else than a manifest", location=where)
        found = Manifest(response.content, response.headers.get("Content-Type", "").partition(";")[0])
        if reference.startswith("sha256:") and found.digest != reference:
            raise HfdlcError(f"the registry gave {found.digest} instead", location=f"{where}@{reference}")
        return found

    def put(self, repository: str, reference: str, manifest: Manifest) -> None:
        """Store a manifest under a tag or its digest.

        Raises Conflict if the registry has an immutable tag with another digest, HfdlcError if it refuses for
        another reason. ECR refuses an immutable tag even if it has this digest already
        (https://github.com/aws/containers-roadmap/issues/2179): that is no error here.
        """
        url = f"/v2/{self.name(repository)}/manifests/{reference}"
        headers = {"Content-Type": manifest.media_type}
        response = self.http.request("PUT", url, data=manifest.content, headers=headers)
        where = f"{self.address}/{repository}:{reference}"
        if response.status_code != requests.codes.created and (found := self.head(repository, reference)):
            if found != manifest.digest:
                raise Conflict(
                    f"has {found} already, and the registry refuses: {_text(response)}", location=where
                )
            return
        _expect(response, requests.codes.created, where)

    def has(self, repository: str, digest: str) -> bool:
        """Whether the repository has a blob."""
        response = self.http.request("HEAD", f"/v2/{self.name(repository)}/blobs/{digest}")
        return bool(response.status_code == requests.codes.ok)

    def mount(self, repository: str, digest: str, source: str) -> tuple[bool, str | None]:
        """Mount a blob of another repository: whether it was, and the upload that began instead."""
        url = f"/v2/{self.name(repository)}/blobs/uploads/"
        response = self.http.request("POST", url, params={"mount": digest, "from": self.name(source)})
        began = response.status_code == requests.codes.accepted
        return response.status_code == requests.codes.created, response.headers["Location"] if began else None

    def upload(
        self, repository: str, digest: str, size: int, open_at: Open, began: str | None = None
    ) -> None:
        """Send a blob in parts; after a failed request it continues from what the registry has.

        `began`: the upload that the registry began for it, see `mount`.
        """
        location: list[str] = []  # of the upload, as the registry last gave it
        unused = [began] if began else []

        def send() -> None:
            resumed = self._progress(location[0]) if location else None
            url, offset = resumed or (unused.pop() if unused else self._start(repository), 0)
            location[:] = [url]
            with open_at(offset) as content:
                while part := content.read(PART):
                    location[0] = self._part(location[0], part, offset)
                    offset += len(part)
            if offset != size:
                raise HfdlcError(f"{digest} has {offset} bytes, not {size}", location=repository)
            response = self.http.once("PUT", location[0], params={"digest": digest})
            if response.status_code == requests.codes.not_found and not self.has(repository, digest):
                raise Transient(f"{digest}: the registry no longer has the upload")
            if response.status_code not in (requests.codes.created, requests.codes.not_found):
                raise HfdlcError(f"the registry refuses {digest}: {_text(response)}", location=self.address)

        with reporting(self.host):
            retrying()(send)

    def _start(self, repository: str) -> str:
        response = self.http.once("POST", f"/v2/{self.name(repository)}/blobs/uploads/")
        _expect(response, requests.codes.accepted, f"{self.address}/{repository}")
        return str(response.headers["Location"])

    def _part(self, url: str, part: bytes, offset: int) -> str:
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{offset}-{offset + len(part) - 1}",
        }
        response = self.http.once("PATCH", url, data=part, headers=headers)
        if response.status_code != requests.codes.accepted:
            raise Transient(f"PATCH {url}: {_text(response)}")
        return str(response.headers["Location"])

    def _progress(self, url: str) -> tuple[str, int] | None:
        """Where an upload continues, and from which byte; None if the registry no longer has it."""
        response = self.http.once("GET", url)
        end = response.headers.get("Range", "0-0").rpartition("-")[2]
        # "0-0" means one byte or none: start again.
        if response.status_code != requests.codes.no_content or end in ("", "0"):
            return None
        return response.headers.get("Location", url), int(end) + 1

    def blob(self, repository: str, digest: str, offset: int = 0) -> Iterator[bytes]:
        """A blob from an offset on, in pieces; continues after a broken connection."""
        at = offset

        def get() -> requests.Response:
            url = f"/v2/{self.name(repository)}/blobs/{digest}"
            headers = {"Range": f"bytes={at}-"} if at else {}
            return self.http.once("GET", url, stream=True, headers=headers)

        with reporting(self.host):
            for attempt in retrying():
                with attempt, get() as response:
                    if response.status_code == requests.codes.not_found:
                        raise HfdlcError("has no such blob", location=f"{self.address}/{repository}@{digest}")
                    if response.status_code != requests.codes.partial_content:
                        _expect(response, requests.codes.ok, f"{self.address}/{repository}@{digest}")
                    # A registry that knows no ranges sends all of it again.
                    known = at if response.status_code == requests.codes.ok else 0
                    length = int(response.headers.get("Content-Length", "0")) - known
                    start = at
                    for piece in response.iter_content(1 << 20):
                        new, known = piece[known:], max(0, known - len(piece))
                        at += len(new)
                        yield new
                    if at - start != length:
                        raise Transient(f"{digest}: the connection ended early")

    def read(self, repository: str, digest: str) -> bytes:
        """A blob that fits into memory, compared with its digest."""
        content = b"".join(self.blob(repository, digest))
        if digest_of(content) != digest:
            where = f"{self.address}/{repository}@{digest}"
            raise HfdlcError("the registry gave content that does not match the digest", location=where)
        return content


def _expect(response: requests.Response, code: int, where: str) -> None:
    if response.status_code != code:
        raise HfdlcError(f"the registry refuses: {_text(response)}", location=where)


def _is_object(response: requests.Response) -> bool:
    """Whether a body is a JSON object: a host that is no registry may answer with a page."""
    try:
        return isinstance(response.json(), dict)
    except requests.JSONDecodeError:
        return False


def _text(response: requests.Response) -> str:
    return f"{response.status_code} {response.text[:300]}"
