"""The server process: socket, signals, shutdown."""

import asyncio
import contextlib
import inspect
import os
import resource
import signal
import socket
import sys
import time
from typing import Iterator, List, Optional

import uvicorn

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.http import protocol
from hf_inference_toolkit.http.app import App, LoadModel, create_app
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.settings import Settings


class _Server(uvicorn.Server):  # type: ignore[misc]
    """uvicorn without its signal handling, which would drop requests in flight."""

    def install_signal_handlers(self) -> None:
        """Do nothing (uvicorn before 0.29)."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing (uvicorn 0.29 and later)."""
        yield


class Process:
    """Runs one app until SIGTERM or SIGINT, or until loading the model fails."""

    def __init__(self, settings: Settings, load_model: LoadModel) -> None:
        self._settings = settings
        self._code = 0
        self._draining: Optional[asyncio.Future[None]] = None
        self._loop = _event_loop()
        self._app = create_app(settings, load_model, self._on_failure)
        self._server = _Server(config(self._app))

    def run(self) -> int:
        """Serve. Returns 0 after SIGTERM, 2 for invalid settings or models, 1 if loading failed otherwise."""
        # A prediction that computes in Python releases the GIL after this time instead of the default 5 ms.
        sys.setswitchinterval(0.001)
        sock = _listen(self._settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)
        event(20, "listening", host=self._settings.bind_host, port=sock.getsockname()[1], pid=os.getpid())
        self._loop.run_until_complete(self._server.serve(sockets=[sock]))
        event(20, "stopped", code=self._code)
        return self._code

    def _on_signal(self) -> None:
        if self._app.model.state != "draining":
            event(20, "stopping: new requests get a 503, accepted requests are finished")
            self._app.drain()
            self._draining = asyncio.ensure_future(self._drain(), loop=self._loop)

    async def _drain(self) -> None:
        ends = time.monotonic() + self._settings.drain_seconds
        while self._app.in_flight and time.monotonic() < ends:
            await asyncio.sleep(0.02)
        for request_id, seconds in self._app.end():
            event(
                30,
                "request not finished within HF_DRAIN_SECONDS ({:g} s)".format(self._settings.drain_seconds),
                request_id=request_id,
                seconds=round(seconds, 4),
            )
        await asyncio.sleep(0.1)  # until these answers are sent
        self._server.should_exit = True
        while time.monotonic() < ends + 2:
            await asyncio.sleep(0.05)
        self._server.force_exit = True

    def _on_failure(self, problem: BaseException) -> None:
        self._code = 2 if isinstance(problem, StartError) else 1
        self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._server.should_exit = True


def config(app: App, **more: object) -> uvicorn.Config:
    """The configuration of uvicorn. `more` overrides options."""
    options = {
        # The client's address is not used.
        "proxy_headers": False,
        "log_config": None,
        "access_log": False,
        "lifespan": "on",
        "http": protocol.choose(app.settings.deadline),
        "ws": "none",
        "timeout_keep_alive": 75,
    }
    # uvicorn 0.14, the last for Python 3.6, does not have this option.
    if "server_header" in inspect.signature(uvicorn.Config).parameters:
        options["server_header"] = False
    return uvicorn.Config(app, **dict(options, **more))


def _event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.bind_host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.bind_host, settings.port))
    except OSError as problem:
        raise StartError(
            "cannot listen on {} port {}: {}. Set SAGEMAKER_BIND_TO_PORT or HF_BIND_HOST".format(
                settings.bind_host, settings.port, problem.strerror
            )
        ) from None
    sock.listen(2048)
    return sock


def raise_file_limit() -> None:
    """Raise the limit of open files to the hard limit: each connection needs one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def leave(code: int) -> None:
    """End the process and its children. `sys.exit` would wait for threads in native code."""
    for child in children(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def children(pid: int) -> List[int]:
    """The running child processes of a process; empty on systems without /proc."""
    found: List[int] = []
    try:
        for thread in os.listdir("/proc/{}/task".format(pid)):  # noqa: PTH208
            with open("/proc/{}/task/{}/children".format(pid, thread)) as listing:  # noqa: PTH123
                found.extend(map(int, listing.read().split()))
    except OSError:
        return found
    return found
