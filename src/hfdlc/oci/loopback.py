"""A registry in memory on 127.0.0.1, for programs that can only read from and write to a registry.

It implements the part of the distribution API that clients need to push and pull; it has no referrers API,
which clients must expect (https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md).
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from hfdlc.oci.image import Manifest, digest_of


@dataclass
class Content:
    """What the registry holds, by repository."""

    manifests: dict[tuple[str, str], Manifest] = field(default_factory=dict)  # by tag and by digest
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)

    def put(self, repository: str, reference: str, manifest: Manifest) -> None:
        """Store a manifest under a reference and its digest."""
        self.manifests[repository, reference] = self.manifests[repository, manifest.digest] = manifest


@contextmanager
def serving() -> Iterator[tuple[str, Content]]:
    """The host of an empty registry, and its content, while it runs."""
    content = Content()
    handler = type("Handler", (_Handler,), {"content": content})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", content
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    content: Content
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/v2/":
            return self._respond(200)
        repository, kind, name = self._split(path)
        if kind == "manifests" and (found := self.content.manifests.get((repository, name))):
            headers = {"Content-Type": found.media_type, "Docker-Content-Digest": found.digest}
            return self._respond(200, headers, found.content)
        if kind == "blobs" and (blob := self.content.blobs.get((repository, name))) is not None:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            return self._respond(206 if start else 200, {"Docker-Content-Digest": name}, blob[start:])
        if kind == "tags":
            tags = sorted(tag for at, tag in self.content.manifests if at == repository and ":" not in tag)
            return self._respond(200, {"Content-Type": "application/json"}, _tags(repository, tags))
        return self._respond(404)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        self._body()
        url = urlsplit(self.path)
        repository, _, _ = self._split(url.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        source = (query.get("from", ""), query.get("mount", ""))
        if (blob := self.content.blobs.get(source)) is not None:
            self.content.blobs[repository, source[1]] = blob
            return self._respond(201, {"Docker-Content-Digest": source[1]})
        upload = uuid4().hex
        self.content.uploads[upload] = b""
        return self._respond(202, {"Location": f"/v2/{repository}/blobs/uploads/{upload}"})

    def do_PATCH(self) -> None:
        upload = urlsplit(self.path).path.rpartition("/")[2]
        self.content.uploads[upload] += self._body()
        end = len(self.content.uploads[upload]) - 1
        self._respond(202, {"Location": self.path, "Range": f"0-{end}"})

    def do_PUT(self) -> None:
        url, body = urlsplit(self.path), self._body()
        repository, kind, name = self._split(url.path)
        if kind == "manifests":
            manifest = Manifest(body, self.headers["Content-Type"])
            self.content.put(repository, name, manifest)
            return self._respond(201, {"Docker-Content-Digest": manifest.digest, "Location": url.path})
        blob = self.content.uploads.pop(name, b"") + body
        digest = parse_qs(url.query)["digest"][0]
        if digest_of(blob) != digest:
            return self._respond(400)
        self.content.blobs[repository, digest] = blob
        return self._respond(201, {"Docker-Content-Digest": digest, "Location": url.path})

    def _split(self, path: str) -> tuple[str, str, str]:
        """The repository, what of it, and its name."""
        words = path.removeprefix("/v2/").split("/")
        kind = next((word for word in reversed(words) if word in ("manifests", "blobs", "tags")), "")
        at = len(words) - 1 - words[::-1].index(kind) if kind else len(words)
        return "/".join(words[:at]), kind, words[-1]

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _respond(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


def _tags(repository: str, tags: list[str]) -> bytes:
    return json.dumps({"name": repository, "tags": tags}).encode()
