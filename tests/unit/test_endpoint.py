"""What `hfdlc serve` prints."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from hfdlc.errors import HfdlcError, UserError
from hfdlc.sagemaker import endpoint
from hfdlc.state import State

if TYPE_CHECKING:
    from docker.models.containers import Container


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


def test_endpoint_is_not_requested_from_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waited for 480 s where `no_proxy` does not list 127.0.0.1."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")

    class Ping(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    container = SimpleNamespace(status="running", reload=lambda: None, logs=lambda **_: b"")
    ticks = iter([0.0, 0.0, endpoint.PATIENCE])
    with HTTPServer(("127.0.0.1", 0), Ping) as server:
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        endpoint._wait(cast("Container", container), server.server_port, lambda: next(ticks))
        thread.join()


def test_model_that_another_run_downloads_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While this one waits for the lock; both moved theirs to the same place."""
    state = State(tmp_path)
    model = tmp_path / "models" / endpoint.REAL_WEIGHTS / "package"

    @contextmanager
    def lock(_: State, __: str) -> Iterator[None]:
        model.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (model / name).touch()
        yield

    monkeypatch.setattr(State, "lock", lock)
    monkeypatch.setattr(endpoint, "_fetch", lambda *_: pytest.fail("downloaded twice"))
    assert endpoint.real_weights(state, {}) == model
