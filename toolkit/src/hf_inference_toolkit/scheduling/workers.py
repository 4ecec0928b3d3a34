"""The threads that make predictions. A server of one model has one; on a multi-model endpoint all models share some."""

import threading
from collections import deque
from typing import Deque


class Unit:
    """One unit of work of a source."""

    def take(self) -> None:
        """Do the work, without the lock."""
        raise NotImplementedError

    def settle(self) -> None:
        """Report the results, without the lock."""
        raise NotImplementedError


class Source:
    """A queue of work, of which one unit runs at a time. All methods are called with the lock of its workers."""

    # Whether it waits for a thread.
    is_waiting = False

    def has_work(self) -> bool:
        """Whether a unit can be taken now."""
        raise NotImplementedError

    def begin(self) -> Unit:
        """The next unit. It runs in this thread."""
        raise NotImplementedError

    def finish(self, unit: Unit) -> bool:
        """Take over the results of a unit. False if another thread has replaced this one meanwhile."""
        raise NotImplementedError


class Workers:
    """Threads that take turns with the units of sources, one of each source after the other."""

    def __init__(self, count: int = 1) -> None:
        self.changed = threading.Condition()
        self._sources: Deque[Source] = deque()
        self._started = 0
        for _ in range(count):
            self.start()

    def start(self) -> None:
        """Start a thread, at first or in place of one that does not return."""
        thread = threading.Thread(target=self._work, name="prediction-{}".format(self._started))
        # A prediction that does not end must not prevent the process from ending.
        thread.daemon = True
        self._started += 1
        thread.start()

    def wake(self, source: Source) -> None:
        """Let a source have its turn if it has work. Called with the lock."""
        self._append(source)
        self.changed.notify()

    def _append(self, source: Source) -> None:
        if not source.is_waiting and source.has_work():
            source.is_waiting = True
            self._sources.append(source)

    def _work(self) -> None:
        while True:
            with self.changed:
                while not self._sources:
                    self.changed.wait()
            if not self._take_turn():
                return

    def _take_turn(self) -> bool:
        """One unit of the source that waits longest. Its variables must not outlive it: they hold a model."""
        with self.changed:
            if not self._sources:
                return True
            source = self._sources.popleft()
            source.is_waiting = False
            if not source.has_work():
                return True
            unit = source.begin()
        unit.take()
        with self.changed:
            is_current = source.finish(unit)
            self._append(source)
            if len(self._sources) > 1 or not is_current:  # this thread takes one of them itself
                self.changed.notify()
        if is_current:
            unit.settle()
        return is_current
