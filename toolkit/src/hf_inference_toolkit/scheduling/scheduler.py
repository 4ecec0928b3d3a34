"""Between transport and prediction: a bounded queue, and the thread that works it off.

Transport hands over a request and waits for its result. How work is grouped is decided here, with the arithmetic of
`batching`, and nowhere else: whatever waits is taken apart into pieces, and the next pass of the model is over the
oldest piece and those that it is cheapest to run it with. Nothing waits for company.
"""

import asyncio
import contextlib
import threading
import time
import weakref
from collections import deque
from typing import Any, Deque, List, MutableMapping, NamedTuple, Optional, Sequence

from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.memory import is_out_of_memory, release_memory
from hf_inference_toolkit.scheduling.batching import Cost, choose, cost_of
from hf_inference_toolkit.tasks.service import BatchRow, Prediction, Reader, Service, Steps, Token

# How many threads may be stuck in a prediction that nobody waits for any more, before the model counts as lost.
MOST_STUCK = 3


class Cancelled(BaseException):
    """Raised inside a prediction that nobody waits for any more; a BaseException so that no model swallows it."""


class Observer:
    """Hears what the scheduler does, in the model's thread; this one does nothing with it."""

    def queued(self, seconds: float) -> None:
        """A request waited this long until its first pass."""

    def passed(self, seconds: float, lengths: Sequence[int]) -> None:
        """A pass took this long, over rows of these lengths in tokens (0 where the task has no rows of tokens)."""


class Job:
    """One request: its prediction in steps, its result's future, and the moment by which it must be done."""

    def __init__(
        self,
        service: Service,
        cost: Cost,
        request: Optional[Request],
        deadline: float,
        loop: asyncio.AbstractEventLoop,
        reader: Reader,
    ) -> None:
        self.service = service
        self.cost = cost
        self.request = request
        self.items = 1 if request is None else service.count(request)
        self.deadline = deadline
        self.submitted = time.monotonic()
        # Whether a pass of its own has begun.
        self.has_run = False
        self.reader = self._emit if reader else None
        self._reader = reader
        # Whether its client has a part of the answer already.
        self.has_streamed = False
        self.loop = loop
        self.future = loop.create_future()
        self.is_cancelled = False
        self.steps: Optional[Steps] = None
        self.outputs: List[Any] = []
        self.missing = 0

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.is_cancelled or time.monotonic() > self.deadline

    def _emit(self, token: Token) -> None:
        """Hand a token on to who reads along."""
        self.has_streamed = True
        self._reader(token)  # type: ignore[misc]

    def check(self) -> None:
        """Called between the steps of a long prediction: ends it when its time is over or its client is gone."""
        if self.is_over:
            raise Cancelled()


class PendingRow(NamedTuple):
    """A piece of a job that has not been run, and the place of its output."""

    job: Job
    place: int
    piece: BatchRow


class Outcome(NamedTuple):
    """How a job ended."""

    job: Job
    result: Any
    problem: Optional[BaseException]


class Step:
    """What the thread does in one go, without the lock: start a job, or make a pass for the jobs of several pieces."""

    def __init__(self, jobs: List[Job], pieces: List[PendingRow], observer: Observer) -> None:
        self._observer = observer
        self.jobs = jobs
        self.pieces = pieces
        self.outcomes: List[Outcome] = []
        self.more: List[PendingRow] = []

    @property
    def items(self) -> int:
        """How many of the items that are waited for it works on."""
        held = sum(job.items for job in self.jobs if not job.is_cancelled)
        return min(sum(not one.job.is_cancelled for one in self.pieces), held) if self.pieces else held

    @property
    def ends(self) -> float:
        """When nobody waits for it any more, however it goes."""
        return max(job.deadline for job in self.jobs)

    @property
    def is_left(self) -> bool:
        """Whether everybody who waited is gone."""
        return all(job.is_cancelled for job in self.jobs)

    def check(self) -> None:
        """Ends a pass when there is nobody left who waits for it."""
        if all(job.is_over for job in self.jobs):
            raise Cancelled()

    def take(self) -> None:
        """Do it; afterwards `outcomes` has the jobs that ended, and `more` the pieces that others want run."""
        if self.pieces:
            self._run(self.pieces)
        else:
            self._advance(self.jobs[0])

    def _run(self, pieces: List[PendingRow]) -> None:
        service = pieces[0].job.service
        began = time.monotonic()
        try:
            outputs = service.run([one.piece for one in pieces], self.check)
        except BaseException as problem:
            self._failed(pieces, problem)
            return
        seconds = time.monotonic() - began
        pieces[0].job.cost.observe(len(pieces) * max(one.piece.length for one in pieces), seconds)
        self._observe(_jobs(pieces), began, seconds, [one.piece.length for one in pieces])
        for one, output in zip(pieces, outputs):
            one.job.outputs[one.place] = output
            one.job.missing -= 1
        for job in _jobs(pieces):
            if not job.missing:
                self._advance(job)

    def _observe(self, jobs: List[Job], began: float, seconds: float, lengths: Sequence[int]) -> None:
        self._observer.passed(seconds, lengths)
        for job in jobs:
            if not job.has_run:
                job.has_run = True
                self._observer.queued(began - job.submitted)

    def _failed(self, pieces: List[PendingRow], problem: BaseException) -> None:
        """Whose fault it was is found by running the pieces of each job alone; who reads along has read too much."""
        jobs = _jobs(pieces)
        is_final = len(jobs) == 1 or not isinstance(problem, Exception)
        if is_out_of_memory(problem):
            release_memory()
        for job in jobs:
            if is_final or job.has_streamed:
                self.outcomes.append(Outcome(job, None, problem))
            else:
                self._run([one for one in pieces if one.job is job])

    def _advance(self, job: Job) -> None:
        """Take a job to its next pieces, or to its end."""
        began, is_alone = time.monotonic(), job.steps is None and job.request is not None
        try:
            job.check()
            if job.steps is None:
                job.steps = _steps(job)
            pieces = job.steps.send(job.outputs or None)  # type: ignore[arg-type]
        except StopIteration as end:
            self.outcomes.append(Outcome(job, end.value, None))
            if is_alone:  # its task shares no passes
                self._observe([job], began, time.monotonic() - began, [0])
        except BaseException as problem:
            self.outcomes.append(Outcome(job, None, problem))
        else:
            job.outputs, job.missing = [None] * len(pieces), len(pieces)
            self.more.extend(PendingRow(job, place, piece) for place, piece in enumerate(pieces))


def _steps(job: Job) -> Steps:
    """The steps of a request, or of the warm-up, which answers nothing."""
    if job.request is not None:
        return (yield from job.service.steps(job.request, job.check, job.reader))
    job.service.warm_up(job.check)
    return Prediction(None)


def _jobs(pieces: List[PendingRow]) -> List[Job]:
    """The jobs of pieces, each once, in order."""
    found: List[Job] = []
    for one in pieces:
        if one.job not in found:
            found.append(one.job)
    return found


class Scheduler:
    """A queue of at most `size` waiting items, worked off in a thread of its own."""

    def __init__(self, size: int, observer: Optional[Observer] = None) -> None:
        self._size = size
        self._costs: MutableMapping[Service, Cost] = weakref.WeakKeyDictionary()
        self._observer = observer or Observer()
        self._jobs: Deque[Job] = deque()
        self._pieces: List[PendingRow] = []
        self._held = 0
        self._changed = threading.Condition()
        self._step: Optional[Step] = None
        # How much was done since the start: jobs begun and passes made.
        self.steps_taken = 0
        self._stuck = 0
        self._generation = 0
        self._start_worker()

    @property
    def waiting(self) -> int:
        """How many items are in the queue."""
        step = self._step
        return max(0, self._held - (step.items if step else 0))

    @property
    def is_busy(self) -> bool:
        """Whether a prediction is being made, or waits."""
        return self._held > 0

    @property
    def is_lost(self) -> bool:
        """Whether so many predictions do not end that no thread is started for more; it may pass."""
        return self._stuck > MOST_STUCK

    def submit(
        self, service: Service, request: Optional[Request], seconds: float, reader: Reader = None
    ) -> Job:
        """A job for a request (for the warm-up where there is none); whoever enters it must `leave` it.

        Its future has the prediction within `seconds`. RequestError 503 when the queue is full.
        """
        cost = self._costs.setdefault(service, cost_of(service))
        job = Job(service, cost, request, time.monotonic() + seconds, asyncio.get_event_loop(), reader)
        with self._changed:
            if job.items > self._size:
                # A list that no queue could hold takes half of the places that are free, and leaves some to others.
                job.items = max(1, (self._size - self.waiting + 1) // 2)
            # One more than may wait: the worker may not have taken the first one yet.
            running = self._step.items if self._step else 1
            if self._held and self._held - running + job.items > self._size:
                raise RequestError(
                    "overloaded", "{} inputs are waiting already".format(self.waiting), {"Retry-After": "1"}
                )
            self._held += job.items
            self._jobs.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Whoever waited has the result, or is gone: the job's place is free at once, wherever the job is."""
        with self._changed:
            if job.is_cancelled:
                return
            job.is_cancelled = True
            self._held -= job.items
            if job in self._jobs:
                self._jobs.remove(job)
            elif job.missing:
                self._pieces = [one for one in self._pieces if one.job is not job]
        if not job.future.done():
            job.future.cancel()

    def replace_stuck_worker(self, patience: float) -> bool:
        """Give the queue a new thread when the present one is `patience` seconds past its step's end."""
        with self._changed:
            step = self._step
            if step is None or not step.is_left or time.monotonic() < step.ends + patience:
                return False
            self._stuck += 1
            self._step = None
            self._generation += 1
            if not self.is_lost:
                self._start_worker()
            return True

    def _start_worker(self) -> None:
        thread = threading.Thread(
            target=self._work, args=(self._generation,), name="prediction-{}".format(self._generation)
        )
        # A prediction that never ends must not keep the process from ending.
        thread.daemon = True
        thread.start()

    def _work(self, generation: int) -> None:
        while True:
            with self._changed:
                while not (self._jobs or self._pieces):
                    self._changed.wait()
                    if generation != self._generation:
                        return
                step = self._step = self._next()
            step.take()
            with self._changed:
                if generation != self._generation:
                    # It ended after all. Another thread has its place, unless there were too many of them.
                    was_lost = self.is_lost
                    self._stuck -= 1
                    if was_lost and not self.is_lost:
                        self._start_worker()
                    return
                self._step = None
                self.steps_taken += 1
                over = frozenset(outcome.job for outcome in step.outcomes)
                if over:
                    self._pieces = [one for one in self._pieces if one.job not in over]
                self._pieces.extend(one for one in step.more if not one.job.is_cancelled)
            _settle(step.outcomes)

    def _next(self) -> Step:
        """Start what waits, so that there is much to choose from; then the cheapest pass with the oldest piece."""
        if self._jobs:
            return Step([self._jobs.popleft()], [], self._observer)
        chosen = frozenset(choose([one.piece for one in self._pieces], self._pieces[0].job.cost))
        pieces = [one for place, one in enumerate(self._pieces) if place in chosen]
        self._pieces = [one for place, one in enumerate(self._pieces) if place not in chosen]
        return Step(_jobs(pieces), pieces, self._observer)


def _settle(outcomes: List[Outcome]) -> None:
    """Give results to those who wait, all those of a pass at once."""

    def finish() -> None:
        for job, result, problem in outcomes:
            if job.future.done():
                continue
            if problem is None:
                job.future.set_result(result)
            elif isinstance(problem, Cancelled):
                job.future.set_exception(RequestError("deadline_exceeded", "no answer in time"))
            elif isinstance(problem, Exception):
                job.future.set_exception(problem)
            else:
                job.future.set_exception(RuntimeError("{!r} in a prediction".format(problem)))

    if outcomes:
        # The loop may be closed: then the server is gone, and so is whoever waited.
        with contextlib.suppress(RuntimeError):
            outcomes[0].job.loop.call_soon_threadsafe(finish)
