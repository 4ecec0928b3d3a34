"""The bounded queue between HTTP and a model, and the steps of its predictions.

Requests are split into rows. Each forward pass takes the oldest row and the rows that share a pass with it at the least
cost (see `batching`). The scheduler does not wait for a batch to fill.
"""

import asyncio
import contextlib
import functools
import threading
import time
import weakref
from collections import deque
from typing import Deque, Dict, List, MutableMapping, NamedTuple, Optional, Sequence, Tuple, cast

from hf_inference_toolkit.annotations import Answer, Output
from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.memory import is_out_of_memory, release_memory
from hf_inference_toolkit.scheduling.batching import Cost, choose, cost_of
from hf_inference_toolkit.scheduling.decoding import Decoding
from hf_inference_toolkit.scheduling.job import Cancelled, Job, Observer, PendingRow
from hf_inference_toolkit.scheduling.workers import Source, Unit, Workers
from hf_inference_toolkit.tasks.service import Prediction, Reader, Service, Steps

# How many threads may be stuck in predictions past their deadlines before no further thread is started. PyTorch passes
# stop at the deadline, but user code and TensorFlow cannot be stopped.
MOST_STUCK = 3
# Jobs that are started between two decoding steps, so that many arrivals do not stop running texts.
MOST_STARTS = 16


class Outcome(NamedTuple):
    """The result or the exception of a job."""

    job: Job
    result: Answer
    problem: Optional[BaseException]


class Step(Unit):
    """One unit of work of a prediction thread, done without the lock: start a job, or make a pass over rows."""

    # That of the scheduler when the step began.
    generation = 0

    def __init__(self, jobs: List[Job], pieces: List[PendingRow], observer: Observer) -> None:
        self._observer = observer
        self.jobs = jobs
        self.pieces = pieces
        self.outcomes: List[Outcome] = []
        self.more: List[PendingRow] = []

    @property
    def items(self) -> int:
        """The number of items, without those of cancelled jobs, that it works on."""
        held = sum(job.items for job in self.jobs if not job.is_cancelled)
        return min(sum(not one.job.is_cancelled for one in self.pieces), held) if self.pieces else held

    @property
    def ends(self) -> float:
        """The latest deadline of its jobs."""
        return max(job.deadline for job in self.jobs)

    @property
    def is_left(self) -> bool:
        """Whether all of its jobs were cancelled."""
        return all(job.is_cancelled for job in self.jobs)

    def check(self) -> None:
        """Raise Cancelled if all of its jobs were cancelled or are past their deadlines."""
        if all(job.is_over for job in self.jobs):
            raise Cancelled()

    def take(self) -> None:
        """Do the work. Afterwards `outcomes` has the finished jobs, and `more` the new rows of other jobs."""
        if self.pieces:
            self._run(self.pieces)
        else:
            self._advance(self.jobs[0])

    def settle(self) -> None:
        """See Unit."""
        _settle(self.outcomes)

    def _run(self, pieces: List[PendingRow]) -> None:
        service = pieces[0].job.service
        began = time.monotonic()
        try:
            outputs = service.run([one.piece for one in pieces], self.check)
        except BaseException as problem:
            self._failed(pieces, problem)
            return
        seconds = time.monotonic() - began
        tokens = len(pieces) * max(one.piece.length for one in pieces)
        pieces[0].job.cost.observe(tokens, seconds, service.engine.name)
        self._observe(_jobs(pieces), began, seconds, [one.piece.length for one in pieces])
        if service.kept_tokens is not None:
            counts = [service.token_counts(one.piece, output) for one, output in zip(pieces, outputs)]
            self._observer.generated(*map(sum, zip(*counts)))
        self._store(list(zip(pieces, outputs)))

    def _store(self, outputs: List[Tuple[PendingRow, Output]]) -> None:
        """Give outputs to their jobs. Jobs that have all of theirs go on."""
        for one, output in outputs:
            one.job.outputs[one.place] = output
            one.job.missing -= 1
        for job in _jobs([one for one, _ in outputs]):
            if not job.missing:
                self._advance(job)

    def _observe(self, jobs: List[Job], began: float, seconds: float, lengths: Sequence[int]) -> None:
        self._observer.passed(seconds, lengths)
        for job in jobs:
            if not job.has_run:
                job.has_run = True
                self._observer.queued(began - job.submitted)

    def _failed(self, pieces: List[PendingRow], problem: BaseException) -> None:
        """Run the rows of each job separately to find the cause. A job that has sent tokens cannot be run again."""
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
        """Run a job up to its next rows, or to its end."""
        began, is_alone = time.monotonic(), job.steps is None and job.request is not None
        try:
            job.check()
            if job.steps is None:
                job.steps = _steps(job)
            pieces = job.steps.send(job.outputs or None)  # type: ignore[arg-type]
        except StopIteration as end:
            job.is_finished = True
            self.outcomes.append(Outcome(job, end.value, None))
            if is_alone:  # its task does not batch
                self._observe([job], began, time.monotonic() - began, [0])
        except BaseException as problem:
            job.is_finished = True
            self.outcomes.append(Outcome(job, None, problem))
        else:
            job.outputs, job.missing = [None] * len(pieces), len(pieces)
            self.more.extend(PendingRow(job, place, piece) for place, piece in enumerate(pieces))


class DecodingStep(Step):
    """One token for each row of a decoding batch."""

    def __init__(self, decoding: Decoding, observer: Observer) -> None:
        super().__init__(decoding.jobs, [], observer)
        self._decoding = decoding

    @property
    def items(self) -> int:
        """See Step. The scheduler counts running rows also between steps."""
        return 0

    def take(self) -> None:
        """See Step."""
        for row in self._decoding.remove_over():
            self._end(row.job, Cancelled())
        try:
            finished = self._decoding.step(self.check)
        except BaseException as problem:
            for row in self._decoding.clear():
                self._end(row.job, problem)
            return
        for one in finished:
            if one.problem is not None:
                self._end(one.handle.job, one.problem)
        self._store([(one.handle, one.output) for one in finished if not one.handle.job.is_finished])

    def _end(self, job: Job, problem: BaseException) -> None:
        if not job.is_finished:
            job.is_finished = True
            self.outcomes.append(Outcome(job, None, problem))


def _steps(job: Job) -> Steps:
    """The steps of a request, or of the warm-up if there is no request."""
    if job.request is not None:
        return (yield from job.service.steps(job.request, job.check, job.reader))
    job.service.warm_up(job.check)
    return Prediction(None)


def _jobs(pieces: List[PendingRow]) -> List[Job]:
    """The distinct jobs of rows, in order."""
    found: List[Job] = []
    for one in pieces:
        if one.job not in found:
            found.append(one.job)
    return found


class Scheduler(Source):
    """A queue of at most `size` items for one model. By default it has a prediction thread of its own."""

    def __init__(
        self, size: int, observer: Optional[Observer] = None, workers: Optional[Workers] = None
    ) -> None:
        self._size = size
        self._workers = workers or Workers()
        self._costs: MutableMapping[Service, Cost] = weakref.WeakKeyDictionary()
        self._observer = observer or Observer()
        self._jobs: Deque[Job] = deque()
        self._pieces: List[PendingRow] = []
        self._decodings: Dict[Service, Decoding] = {}
        # Jobs that were started since the last decoding step, and whether the last work was such a step.
        self._started = 0
        self._has_decoded = False
        self._held = 0
        self._changed = self._workers.changed
        self._step: Optional[Step] = None
        # The thread of the step.
        self._worker: Optional[threading.Thread] = None
        # The number of steps done since the start.
        self.steps_taken = 0
        self._stuck = 0
        self._generation = 0

    @property
    def waiting(self) -> int:
        """The number of items in the queue."""
        step = self._step
        return max(0, self._held - (step.items if step else 0) - self.running)

    @property
    def running(self) -> int:
        """The number of items that are decoded token by token."""
        return sum(one.running_items for one in list(self._decodings.values()))

    @property
    def cache_usage(self) -> float:
        """The used part of the memory of KV caches, from 0 to 1."""
        return max((one.usage for one in list(self._decodings.values())), default=0.0)

    @property
    def is_busy(self) -> bool:
        """Whether any prediction is running or queued."""
        return self._held > 0

    @property
    def is_lost(self) -> bool:
        """Whether too many predictions are stuck to start another thread. It is false again when enough have ended."""
        return self._stuck > MOST_STUCK

    def submit(
        self, service: Service, request: Optional[Request], seconds: float, reader: Reader = None
    ) -> Job:
        """Add a job for a request, or for the warm-up if it is None. The caller must `cancel` it afterwards.

        The job's deadline is in `seconds`. RequestError (503) if the queue is full.
        """
        if service not in self._costs:
            self._costs[service] = cost_of(service)
            service.take_turn = functools.partial(self._take_turn, service)
        cost = self._costs[service]
        job = Job(service, cost, request, time.monotonic() + seconds, asyncio.get_event_loop(), reader)
        with self._changed:
            if job.items > self._size:
                # A list longer than the queue takes half of the free slots, so that other requests get some.
                job.items = max(1, (self._size - self.waiting + 1) // 2)
            # One item more than the size: the worker may not have taken the first one yet.
            running = (self._step.items if self._step else 1) + self.running
            if self._held and self._held - running + job.items > self._size:
                raise RequestError(
                    "overloaded",
                    "the queue is full: {} inputs are waiting (HF_QUEUE_SIZE)".format(self.waiting),
                    {"Retry-After": "1"},
                )
            self._held += job.items
            self._jobs.append(job)
            self._workers.wake(self)
        return job

    def cancel(self, job: Job) -> None:
        """Remove a job, finished or not, and free its slots in the queue."""
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
        """Start a new prediction thread if the present one is `patience` seconds past the deadline of its jobs."""
        with self._changed:
            step = self._step
            if step is None or not step.is_left or time.monotonic() < step.ends + patience:
                return False
            self._stuck += 1
            self._step = None
            self._generation += 1
            # The stuck thread may still use its batches.
            waiting = [row for one in self._decodings.values() for row in one.take_waiting()]
            self._decodings = {}
            self._submit_rows(waiting)
            self._worker = None
            self._workers.start()
            self._workers.wake(self)
            return True

    def has_work(self) -> bool:
        """See Source."""
        if self._step is not None or self.is_lost:
            return False
        return bool(self._jobs or self._pieces or self._next_decoding())

    def begin(self) -> Step:
        """See Source."""
        step = self._step = self._next()
        step.generation = self._generation
        self._worker = threading.current_thread()
        return step

    def finish(self, unit: Unit) -> bool:
        """See Source. A stuck prediction that has ended allows another one."""
        step = cast(Step, unit)
        if step.generation != self._generation:
            self._stuck -= 1
            return False
        self._step = None
        self.steps_taken += 1
        self._keep_rows(step)
        return True

    def _keep_rows(self, step: Step) -> None:
        """Drop the rows of finished jobs, and keep the new ones."""
        over = frozenset(outcome.job for outcome in step.outcomes)
        if over:
            self._pieces = [one for one in self._pieces if one.job not in over]
        self._submit_rows([one for one in step.more if not one.job.is_cancelled])

    def _submit_rows(self, rows: List[PendingRow]) -> None:
        for row in rows:
            if not row.piece.is_decoded:
                self._pieces.append(row)
                continue
            service = row.job.service
            if service not in self._decodings:
                self._decodings[service] = Decoding(service, self._observer)
            self._decodings[service].submit([row])

    def _next_decoding(self) -> Optional[Decoding]:
        return next((one for one in self._decodings.values() if one.is_active), None)

    def _next(self) -> Step:
        """The next step: start a waiting job, so that there are more rows to choose from; otherwise a pass.

        Decoding steps and passes take turns.
        """
        decoding = self._next_decoding()
        if self._jobs and (decoding is None or self._started < MOST_STARTS):
            self._started += 1
            return Step([self._jobs.popleft()], [], self._observer)
        self._started = 0
        if decoding is not None and not (self._pieces and self._has_decoded):
            self._has_decoded = True
            return DecodingStep(decoding, self._observer)
        self._has_decoded = False
        chosen = frozenset(choose([one.piece for one in self._pieces], self._pieces[0].job.cost))
        pieces = [one for place, one in enumerate(self._pieces) if place in chosen]
        self._pieces = [one for place, one in enumerate(self._pieces) if place not in chosen]
        return Step(_jobs(pieces), pieces, self._observer)

    def _take_turn(self, service: Service) -> None:
        """Start a waiting job of a service and make a decoding step. Called within a long pass of the service."""
        steps: List[Step] = []
        with self._changed:
            if threading.current_thread() is not self._worker:
                return
            if self._jobs and self._jobs[0].service is service:
                steps.append(Step([self._jobs.popleft()], [], self._observer))
            decoding = self._decodings.get(service)
            if decoding is not None and decoding.is_active:
                steps.append(DecodingStep(decoding, self._observer))
        for step in steps:
            step.take()
            with self._changed:
                if threading.current_thread() is not self._worker:
                    return
                self._keep_rows(step)
            _settle(step.outcomes)


def _settle(outcomes: List[Outcome]) -> None:
    """Set the futures of finished jobs, all in one callback of the event loop."""

    def finish() -> None:
        for job, result, problem in outcomes:
            if job.future.done():
                continue
            if problem is None:
                job.future.set_result(result)
            elif isinstance(problem, Cancelled):
                job.future.set_exception(
                    RequestError("deadline_exceeded", "no response before the deadline of the request")
                )
            elif isinstance(problem, Exception):
                job.future.set_exception(problem)
            else:
                job.future.set_exception(RuntimeError("{!r} in a prediction".format(problem)))

    if outcomes:
        # The loop is closed if the server has stopped.
        with contextlib.suppress(RuntimeError):
            outcomes[0].job.loop.call_soon_threadsafe(finish)
