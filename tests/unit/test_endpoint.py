"""What `hfdlc serve` prints."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from hfdlc.errors import HfdlcError, UserError
from hfdlc.sagemaker import endpoint


def test_long_answer_is_shortened() -> None:
    assert endpoint.shortened([0.25] * 384) == "[0.2500, 0.2500, 0.2500, ...] (384 numbers)"
    assert endpoint.shortened([0.7778, -0.04]) == "[0.7778, -0.0400]"


@pytest.mark.parametrize("status", [200, 500])
def test_answer_of_the_endpoint(status: int) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps([1.0, 2.0]).encode())

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    try:
        if status == 200:
            assert endpoint._ask(server.server_port, "{}") == [1.0, 2.0]
        else:
            with pytest.raises(HfdlcError, match=r"/invocations answered 500: \[1.0, 2.0\]"):
                endpoint._ask(server.server_port, "{}")
    finally:
        thread.join()
        server.server_close()


def test_endpoint_that_is_gone() -> None:
    with pytest.raises(HfdlcError, match="/invocations cannot be reached"):
        endpoint._ask(1, "{}")


def test_port_of_another_program_is_an_error() -> None:
    """Its answers would be taken for those of the model; the error is before anything is downloaded."""
    with (
        HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server,
        pytest.raises(UserError, match=f"127.0.0.1:{server.server_port}: the port is in use(.|\n)*--port"),
    ):
        endpoint.check_port(server.server_port)
    endpoint.check_port(server.server_port)
