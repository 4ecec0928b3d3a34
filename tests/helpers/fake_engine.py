"""A server on loopback that says it is a Docker engine, for versions that cannot be installed here."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def answering(version: str, builder: str = "2", more: Mapping[str, object] | None = None) -> Iterator[str]:
    """The address of a server that answers `/info` and `/version` as an engine of this version does.

    `builder`: the header that names the version of its builder. `more`: what else its answers contain.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer every request alike."""
            about = {"ServerVersion": version, "ApiVersion": "1.41", "DriverStatus": [], **(more or {})}
            body = json.dumps(about).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Builder-Version", builder)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write no log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"tcp://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
