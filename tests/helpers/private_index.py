"""A package index on loopback that requires a password and a client certificate, over an untrusted TLS."""

import base64
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from packaging.utils import canonicalize_name

USER, WORD = "reader", "open-sesame"


@dataclass
class Index:
    """A running index."""

    host: str
    certificate: Path  # of the client and of the server, with its private key
    programs: set[str] = field(default_factory=set)  # that downloaded a wheel


class _Handler(SimpleHTTPRequestHandler):
    index: Index
    wheels: Path

    def do_GET(self) -> None:
        given = base64.b64encode(f"{USER}:{WORD}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {given}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="test"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path.endswith(".whl"):
            self.index.programs.add(self.headers.get("User-Agent", "").partition("/")[0])
            super().do_GET()
            return
        name = self.path.strip("/").rpartition("/")[2]
        files = [file.name for file in sorted(self.wheels.glob("*.whl"))]
        found = [file for file in files if canonicalize_name(file.partition("-")[0]) == name]
        text = "".join(f'<a href="/{file}">{file}</a>\n' for file in found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(wheels: Path, folder: Path) -> Iterator[Index]:
    """An index of the wheels in a folder; `folder` gets the certificate."""
    pem = _certificate(folder / "client.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.load_verify_locations(pem)
    context.verify_mode = ssl.CERT_REQUIRED
    handler = type("Handler", (_Handler,), {"wheels": wheels})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(wheels)))
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    index = handler.index = Index(f"127.0.0.1:{server.server_port}", pem)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _certificate(file: Path) -> Path:
    """A self-signed certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return file
