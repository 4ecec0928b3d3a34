"""Requests and their rows in the scheduler, and what it reports."""

import asyncio
import time
from typing import List, NamedTuple, Optional, Sequence

from hf_inference_toolkit.annotations import Output
from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.scheduling.batching import Cost
from hf_inference_toolkit.tasks.service import BatchRow, Reader, Service, Steps, Token


class Cancelled(BaseException):
    """Raised in a prediction that was cancelled. A BaseException, so that `except Exception` does not catch it."""


class Observer:
    """Callbacks of the scheduler, in the prediction thread. They do nothing here."""

    def queued(self, seconds: float) -> None:
        """Called at a request's first pass with its time in the queue."""

    def passed(self, seconds: float, lengths: Sequence[int]) -> None:
        """Called after a pass with its time and the lengths of its rows in tokens (0 if the task does not batch)."""

    def generated(self, prompt_tokens: int, new_tokens: int) -> None:
        """Called with the tokens of prompts and texts of a pass or step of text generation."""

    def first_token(self, seconds: float) -> None:
        """Called when a text has its first token, with the time since the request was submitted."""

    def next_token(self, seconds: float) -> None:
        """Called when a text has another token, with the time since the one before."""


class Job:
    """One request in the scheduler: its steps, the future of its prediction, and its deadline."""

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
        # Whether its first pass has begun.
        self.has_run = False
        self.reader = self._emit if reader else None
        self._reader = reader
        # Whether a token was sent to the client already.
        self.has_streamed = False
        self.loop = loop
        self.future = loop.create_future()
        self.is_cancelled = False
        # Whether its result or its exception is known.
        self.is_finished = False
        self.steps: Optional[Steps] = None
        self.outputs: List[Output] = []
        self.missing = 0

    @property
    def is_over(self) -> bool:
        """Whether it is finished, was cancelled or is past its deadline."""
        return self.is_cancelled or self.is_finished or time.monotonic() > self.deadline

    def _emit(self, token: Token) -> None:
        """Pass a token to the streaming client."""
        self.has_streamed = True
        self._reader(token)  # type: ignore[misc]

    def check(self) -> None:
        """Raise Cancelled if the job was cancelled or is past its deadline."""
        if self.is_over:
            raise Cancelled()


class PendingRow(NamedTuple):
    """A row of a job that waits for a pass, and the index of its output."""

    job: Job
    place: int
    piece: BatchRow
