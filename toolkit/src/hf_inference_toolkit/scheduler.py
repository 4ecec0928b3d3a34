"""Between transport and prediction: a bounded queue, and the thread that works it off.

Transport hands over a function and waits for its result. How work is grouped is decided here and nowhere else.
"""

import asyncio
import collections
import contextlib
import threading
import time
from typing import Any, Callable, Deque, Optional

from hf_inference_toolkit.errors import RequestError

# How many threads may be stuck in a prediction that nobody waits for any more, before the model counts as lost.
MOST_STUCK = 3


class Cancelled(BaseException):
    """Raised inside a prediction that nobody waits for any more; a BaseException so that no model swallows it."""


class Job:
    """One piece of work: a function of the job, its result's future, and the moment by which it must be done."""

    def __init__(
        self, work: Callable[["Job"], Any], deadline: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.work = work
        self.deadline = deadline
        self.loop = loop
        self.future = loop.create_future()
        self.is_cancelled = False
        self.started = 0.0

    def check(self) -> None:
        """Called between the steps of a long prediction: ends it when its time is over or its client is gone."""
        if self.is_cancelled or time.monotonic() > self.deadline:
            raise Cancelled()


class Scheduler:
    """A queue of at most `size` waiting jobs, worked off one by one in a thread of its own."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: Deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._running: Optional[Job] = None
        self._stuck = 0
        self._generation = 0
        self._start_worker()

    @property
    def waiting(self) -> int:
        """How many jobs are in the queue."""
        return len(self._jobs)

    @property
    def is_busy(self) -> bool:
        """Whether a prediction is being made, or waits."""
        return self._running is not None or bool(self._jobs)

    @property
    def is_lost(self) -> bool:
        """Whether so many predictions never came back that the model must be thought dead."""
        return self._stuck > MOST_STUCK

    async def submit(self, work: Callable[[Job], Any], seconds: float) -> Any:
        """The result of `work`, within `seconds`; 503 when the queue is full, 504 when the time is over."""
        loop = asyncio.get_event_loop()
        job = Job(work, time.monotonic() + seconds, loop)
        with self._changed:
            # One more than may wait: the worker may not have taken the first one yet.
            if len(self._jobs) + (self._running is not None) > self._size:
                raise RequestError(
                    "overloaded", "{} requests are waiting already".format(self._size), {"Retry-After": "1"}
                )
            self._jobs.append(job)
            self._changed.notify()
        try:
            return await asyncio.wait_for(asyncio.shield(job.future), seconds)
        except asyncio.TimeoutError:
            raise RequestError("deadline_exceeded", "no answer within {:g} seconds".format(seconds)) from None
        finally:
            self._leave(job)

    def _leave(self, job: Job) -> None:
        """Whoever waited is gone: the job's place is free at once, wherever the job is."""
        job.is_cancelled = True
        if job.future.done():
            return
        job.future.cancel()
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)

    def replace_stuck_worker(self, patience: float) -> bool:
        """Give the queue a new thread when the present one is `patience` seconds past its job's end."""
        with self._changed:
            job = self._running
            if job is None or not job.is_cancelled or time.monotonic() < job.deadline + patience:
                return False
            self._stuck += 1
            self._running = None
            if not self.is_lost:
                self._start_worker()
            return True

    def _start_worker(self) -> None:
        self._generation += 1
        thread = threading.Thread(
            target=self._work, args=(self._generation,), name="prediction-{}".format(self._generation)
        )
        # A prediction that never ends must not keep the process from ending.
        thread.daemon = True
        thread.start()

    def _work(self, generation: int) -> None:
        while True:
            with self._changed:
                while not self._jobs:
                    self._changed.wait()
                    if generation != self._generation:
                        return
                job = self._jobs.popleft()
                self._running = job
            _run(job)
            with self._changed:
                if generation != self._generation:
                    # It came back after all, and another thread has its place.
                    self._stuck -= 1
                    return
                self._running = None


def _run(job: Job) -> None:
    job.started = time.monotonic()
    try:
        job.check()
        result = job.work(job)
    except BaseException as problem:
        _settle(job, None, problem)
    else:
        _settle(job, result, None)


def _settle(job: Job, result: Any, problem: Optional[BaseException]) -> None:
    def finish() -> None:
        if job.future.done():
            return
        if problem is None:
            job.future.set_result(result)
        elif isinstance(problem, Cancelled):
            job.future.set_exception(RequestError("deadline_exceeded", "no answer in time"))
        elif isinstance(problem, Exception):
            job.future.set_exception(problem)
        else:
            job.future.set_exception(RuntimeError("{!r} in a prediction".format(problem)))

    # The loop may be closed: then the server is gone, and so is whoever waited.
    with contextlib.suppress(RuntimeError):
        job.loop.call_soon_threadsafe(finish)
