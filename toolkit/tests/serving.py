"""A real server in this process, on loopback, and a client that sends exactly what a test says."""

import asyncio
import contextlib
import http.client
import json
import threading
import time

import uvicorn

from hf_inference_toolkit.http import process, protocol
from hf_inference_toolkit.http.app import create_app
from hf_inference_toolkit.settings import Settings


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body.decode("utf-8"))


class Running:
    """A server that listens; `post` sends a value as JSON, or bytes as they are."""

    def __init__(self, app, port, loop=None):
        self.app, self.port, self.loop = app, port, loop

    def request(self, method, path, body=None, headers=None, timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.request("GET", path, None, headers)

    def post(self, value, headers=None, path="/invocations"):
        body = value if isinstance(value, bytes) else json.dumps(value).encode("utf-8")
        return self.request("POST", path, body, dict({"Content-Type": "application/json"}, **(headers or {})))


@contextlib.contextmanager
def serve(load_model, wait=True, parser="auto", head_seconds=None, **settings):
    """Run `create_app` with these settings until the block ends. Without a runtime, PyTorch serves, not OpenVINO."""
    settings.setdefault("runtime", "torch")
    app = create_app(Settings(**settings), load_model)
    loop = asyncio.new_event_loop()
    http = protocol.choose(head_seconds or app.settings.deadline, parser)
    server = uvicorn.Server(process.config(app, port=0, http=http))
    server.install_signal_handlers = lambda: None

    def run():
        asyncio.set_event_loop(loop)
        loop.run_until_complete(server.serve())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server ended before it listened"
            time.sleep(0.01)
        running = Running(app, server.servers[0].sockets[0].getsockname()[1], loop)
        while wait and app.model.state == "loading":
            time.sleep(0.01)
        yield running
    finally:
        server.should_exit = True
        thread.join(30)
        loop.close()
