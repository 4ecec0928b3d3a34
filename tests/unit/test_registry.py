"""The client of registries: logins, proxies, and answers that are no manifests. Servers are on loopback."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hfdlc.errors import HfdlcError
from hfdlc.oci import loopback
from hfdlc.oci.image import digest_of
from hfdlc.oci.registry import Registry

TOKEN = "Bearer for-anyone"


@contextmanager
def answering(status: int, kind: str, body: bytes) -> Iterator[str]:
    """The host of a server that answers every request alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Nothing is logged."""

    with serving(Handler) as host:
        yield host


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def with_tokens(seen: list[str | None]) -> Iterator[str]:
    """The host of a registry that gives a token to anyone; `seen` gets the logins of all requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            login, host = self.headers.get("Authorization"), self.headers["Host"]
            seen.append(login)
            allowed = login == TOKEN or self.path.startswith("/token")
            self.send_response(200 if allowed else 401)
            body = b'{"token": "for-anyone"}' if allowed else b""
            self.send_header("WWW-Authenticate", f'Bearer realm="http://{host}/token"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing is logged."""

    with serving(Handler) as host:
        yield host


def test_login_of_netrc_does_not_replace_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is for the package index of that host, and is sent to no registry."""
    (tmp_path / "netrc").write_text("default login me password private\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("no_proxy", "*")
    seen: list[str | None] = []
    with with_tokens(seen) as host:
        registry = Registry(f"http://{host.replace('127.0.0.1', '0.0.0.0')}")
        assert registry.manifest("repository", "tag").content
    assert seen == [None, None, TOKEN]


def test_registry_on_this_machine_is_not_requested_from_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Docker does, whatever `no_proxy` lists."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with loopback.serving() as (host, _):
        assert not Registry(host).has("repository", "sha256:0")


def test_refused_request_is_not_a_manifest() -> None:
    """The digest of the error was compared with that of the image."""
    with answering(400, "application/json", b'{"errors": [{"code": "NAME_INVALID"}]}') as host:
        for request in (Registry(host).head, Registry(host).manifest):
            with pytest.raises(HfdlcError, match=r"tag: the registry refuses: 400 .*NAME_INVALID"):
                request("repository", "tag")


def test_page_of_another_server_is_not_a_manifest() -> None:
    with (
        answering(200, "text/html", b"<html>Sign in</html>") as host,
        pytest.raises(HfdlcError, match="something else than a manifest"),
    ):
        Registry(host).manifest("repository", "tag")


def test_refused_blob_is_an_error() -> None:
    """The body of the refusal was the content."""
    with answering(400, "application/json", b'{"errors": [{"code": "UNSUPPORTED"}]}') as host:
        registry = Registry(host)
        with pytest.raises(HfdlcError, match=r"@sha256:0: the registry refuses: 400 .*UNSUPPORTED"):
            registry.read("repository", "sha256:0")


@pytest.mark.parametrize("ranges", [True, False])
def test_download_continues_where_it_was_cut(ranges: bool) -> None:
    """Also where the registry sends the blob from its start again."""
    content = bytes(range(256)) * (3 << 12)
    starts: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "bytes=0-")
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if ranges else 0
            starts.append(start)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:] if len(starts) > 1 else content[: 5 << 19])

        def log_message(self, *_: object) -> None:
            """Nothing is logged."""

    with serving(Handler) as host:
        assert Registry(host).read("repository", digest_of(content)) == content
    assert [start > 0 for start in starts] == [False, ranges]
