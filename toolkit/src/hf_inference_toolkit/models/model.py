"""The state of a model and of the server: loading, ready, stuck, failed, draining."""

import threading
import time
from typing import Callable, Optional

from hf_inference_toolkit.errors import RequestError, StartError
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.runtimes import memory
from hf_inference_toolkit.runtimes.base import Engine
from hf_inference_toolkit.tasks.service import Service, no_check

LOADING, READY, STUCK, FAILED, DRAINING = "loading", "ready", "stuck", "failed", "draining"
PING_STATUS = {LOADING: 503, READY: 200, STUCK: 500, FAILED: 500, DRAINING: 503}


class Model:
    """Loads a model and keeps its state: that of the server, which /ping reports, or of one model of many."""

    def __init__(
        self,
        load: Callable[[], Service],
        on_failure: Callable[[BaseException], None],
        server: Optional["Model"] = None,
    ) -> None:
        """`server` is the state of the server if that has many models."""
        self.state = LOADING
        self.service: Optional[Service] = None
        self.load_seconds = 0.0
        self.server = server or self
        self._load = load
        self._on_failure = on_failure
        self._thread: Optional[threading.Thread] = None

    @property
    def status(self) -> int:
        """The HTTP status of /ping."""
        return PING_STATUS[self.state]

    def start(self) -> None:
        """Start loading and return. Loading has no time limit."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="load")
            self._thread.daemon = True
            self._thread.start()

    def _run(self) -> None:
        try:
            self.load(memory.settle)
        except BaseException as problem:
            self._failed(problem)
            return
        self.optimize()
        memory.settle()

    def load(self, settle: Callable[[], None]) -> None:
        """Load and warm up in this thread, and serve. `settle` is called before that."""
        began = time.monotonic()
        service = self._load()
        try:
            service.warm_up(no_check)
        except BaseException:
            service.close()
            raise
        settle()
        self.load_seconds = time.monotonic() - began
        self.service = service
        if self.state == LOADING:
            self.state = READY
        event(
            20, "ready", None, task=service.task, seconds=round(self.load_seconds, 3), **service.described()
        )

    def optimize(self) -> None:
        """Look for a faster runtime. May take minutes."""
        try:
            if self.service is not None:
                self.service.optimize()
        except Exception as problem:
            event(30, "the search for a faster runtime failed", problem)

    @property
    def engine(self) -> Engine:
        """What computes forward passes now."""
        return self.service.engine if self.service is not None else Engine("none")

    def _failed(self, problem: BaseException) -> None:
        self.state = FAILED
        if isinstance(problem, StartError):
            event(40, "cannot start: {}".format(problem))
        else:
            event(
                40,
                "cannot start: the model did not load or its warm-up failed: {!r}".format(problem),
                problem,
            )
        self._on_failure(problem)

    def fail(self, reason: str) -> None:
        """Refuse all further requests. /ping is 500 until the container is replaced."""
        if self.state != FAILED:
            self.state = FAILED
            event(40, "the model can no longer serve: {}".format(reason))

    def stuck(self, is_stuck: bool) -> None:
        """Stop serving while too many predictions run past their deadlines; serve again when they have ended."""
        if is_stuck and self.state == READY:
            self.state = STUCK
            event(40, "too many predictions run past their deadlines: no requests are served until they end")
        elif not is_stuck and self.state == STUCK:
            self.state = READY
            event(20, "the predictions have ended: requests are served again")

    def drain(self) -> None:
        """Refuse new requests, because the server shuts down."""
        if self.state != FAILED:
            self.state = DRAINING

    def serving(self) -> Service:
        """The loaded model. RequestError (503) if requests are not served now."""
        if self.state == READY and self.service is not None:
            return self.service
        kind, message = _REFUSALS.get(self.state, _REFUSALS[LOADING])
        raise RequestError(kind, message, {"Retry-After": "1"})


_REFUSALS = {
    LOADING: ("not_ready", "the model is loading; /ping is 200 when it is ready"),
    STUCK: ("unhealthy", "too many predictions run past their deadlines; /ping is 200 when they have ended"),
    FAILED: ("unhealthy", "the model can no longer serve"),
    DRAINING: ("draining", "the server is shutting down"),
}
