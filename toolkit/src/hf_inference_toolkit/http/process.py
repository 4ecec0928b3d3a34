"""The process around the app: its socket, its signals, its end."""

import asyncio
import contextlib
import inspect
import os
import resource
import signal
import socket
import sys
import time
from typing import Any, Iterator, List, Optional

import uvicorn

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.http import protocol
from hf_inference_toolkit.http.app import App, LoadModel, create_app
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.settings import Settings


class _Server(uvicorn.Server):  # type: ignore[misc]
    """uvicorn without its own signal handling, which ends the process by the signal and loses what is in work."""

    def install_signal_handlers(self) -> None:
        """Nothing: uvicorn before 0.29."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: uvicorn from 0.29 on."""
        yield


class Process:
    """Runs one app until SIGTERM or until there will never be a model; `run` returns the exit code."""

    def __init__(self, settings: Settings, load_model: LoadModel) -> None:
        self._settings = settings
        self._code = 0
        self._draining: Optional[asyncio.Future[None]] = None
        self._loop = _event_loop()
        self._app = create_app(settings, load_model, self._on_failure)
        self._server = _Server(config(self._app))

    def run(self) -> int:
        """Serve; 0 after a drained SIGTERM, 2 when settings or model are wrong, 1 when loading failed otherwise."""
        # A prediction that computes in Python gives way to the event loop after this time, and not after 5 ms.
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
            event(20, "stopping: no new work, what was accepted is answered")
            self._app.model.drain()
            self._draining = asyncio.ensure_future(self._drain(), loop=self._loop)

    async def _drain(self) -> None:
        ends = time.monotonic() + self._settings.drain_seconds
        while self._app.in_flight and time.monotonic() < ends:
            await asyncio.sleep(0.02)
        for request_id, seconds in self._app.end():
            event(
                30,
                "not answered within the drain time of {:g} s (HF_DRAIN_SECONDS)".format(
                    self._settings.drain_seconds
                ),
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


def config(app: App, **more: Any) -> Any:
    """How uvicorn serves an app."""
    options = {
        # Nothing here asks for the client's address, so no header needs to be believed about it.
        "proxy_headers": False,
        "log_config": None,
        "access_log": False,
        "lifespan": "on",
        "http": protocol.choose(app.settings.deadline),
        "ws": "none",
        "timeout_keep_alive": 75,
    }
    # uvicorn 0.14, the last for Python 3.6, always names itself.
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
    """Many open connections are no reason to fail: take as many files as the system allows this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def leave(code: int) -> None:
    """End the process and what it started. A thread in the middle of native code cannot be ended more gently."""
    for child in children(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def children(pid: int) -> List[int]:
    """The processes that a process has started and that still run; empty where the system does not tell."""
    found: List[int] = []
    try:
        for thread in os.listdir("/proc/{}/task".format(pid)):  # noqa: PTH208
            with open("/proc/{}/task/{}/children".format(pid, thread)) as listing:  # noqa: PTH123
                found.extend(map(int, listing.read().split()))
    except OSError:
        return found
    return found
