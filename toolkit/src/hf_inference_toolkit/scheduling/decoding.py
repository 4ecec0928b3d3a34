"""Batching of text generation token by token: rows wait, join the running batch, and leave it with their texts."""

import time
from collections import deque
from typing import Deque, Dict, List, Sequence, Tuple

from hf_inference_toolkit.scheduling.job import Job, Observer, PendingRow
from hf_inference_toolkit.tasks.service import Check, Finished, Service


class Decoding:
    """The rows of one service. All methods but the properties are called in the prediction thread."""

    def __init__(self, service: Service, observer: Observer) -> None:
        self._batch = service.decoding_batch()
        self._observer = observer
        self._waiting: Deque[PendingRow] = deque()
        # Rows in the batch, by identity, with the time of their last token.
        self._last_token: Dict[int, float] = {}
        # A tuple, because other threads read it.
        self.running: Tuple[PendingRow, ...] = ()

    @property
    def is_active(self) -> bool:
        """Whether a step has anything to do."""
        return bool(self.running or self._waiting)

    @property
    def running_items(self) -> int:
        """The number of items that are decoded, without those of cancelled jobs."""
        rows: Dict[int, int] = {}
        jobs = {}
        for row in self.running:
            if not row.job.is_cancelled:
                rows[id(row.job)] = rows.get(id(row.job), 0) + 1
                jobs[id(row.job)] = row.job
        return sum(min(count, jobs[number].items) for number, count in rows.items())

    @property
    def usage(self) -> float:
        """The used part of the memory of the KV cache, from 0 to 1."""
        return self._batch.usage

    @property
    def jobs(self) -> List[Job]:
        """The jobs of the next step."""
        return list({id(row.job): row.job for row in [*self.running, *self._waiting]}.values())

    def submit(self, rows: Sequence[PendingRow]) -> None:
        """Let rows wait until there is room in the batch."""
        self._waiting.extend(rows)

    def take_waiting(self) -> List[PendingRow]:
        """Remove and return the rows that wait."""
        rows = list(self._waiting)
        self._waiting.clear()
        return rows

    def clear(self) -> List[PendingRow]:
        """Drop the rows of the batch, and return them."""
        rows = list(self.running)
        self._batch.clear()
        self.running = ()
        self._last_token.clear()
        return rows

    def remove_over(self) -> List[PendingRow]:
        """Drop the rows of jobs that were cancelled, are past their deadlines or have failed, and return them."""
        over = [row for row in [*self.running, *self._waiting] if row.job.is_over]
        if over:
            numbers = frozenset(map(id, over))
            self._batch.remove([row for row in self.running if id(row) in numbers])
            self.running = tuple(row for row in self.running if id(row) not in numbers)
            self._waiting = deque(row for row in self._waiting if id(row) not in numbers)
            for number in numbers:
                self._last_token.pop(number, None)
        return over

    def step(self, check: Check) -> Sequence[Finished]:
        """Let waiting rows join, and decode one token of each row. Returns the rows that are finished."""
        self._admit()
        if not self.running:
            return ()
        began = time.monotonic()
        done = self._batch.step(check)
        now = time.monotonic()
        if done.lengths:
            self._observer.passed(now - began, done.lengths)
        self._observer.generated(done.prompt_tokens, done.new_tokens)
        for number, last in self._last_token.items():
            self._observer.next_token(now - last)
            self._last_token[number] = now
        for row in done.started:
            self._observer.first_token(now - row.job.submitted)
            self._last_token[id(row)] = now
        if done.finished:
            numbers = frozenset(id(one.handle) for one in done.finished)
            self.running = tuple(row for row in self.running if id(row) not in numbers)
            for number in numbers:
                self._last_token.pop(number, None)
        return done.finished

    def _admit(self) -> None:
        joined: List[PendingRow] = []
        while self._waiting and self._batch.fits(self._waiting[0].piece):
            row = self._waiting.popleft()
            self._batch.add(row, row.piece)
            joined.append(row)
        if joined:
            self.running = (*self.running, *joined)
        now = time.monotonic()
        for row in joined:
            if not row.job.has_run:
                row.job.has_run = True
                self._observer.queued(now - row.job.submitted)
