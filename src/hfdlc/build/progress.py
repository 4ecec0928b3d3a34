"""Progress of a build: one live line for each cell on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from hfdlc.build.log import Event

Clock = Callable[[], float]


class Progress(Protocol):
    """Shows the events of a build as they come."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, event: Event) -> None:
        """Show one event."""


@dataclass
class _Line:
    began: float
    stage: str = "waiting"
    done: int = 0
    cached: int = 0
    bytes: int = 0


class Plain:
    """A line for each instruction that ends."""

    def __init__(self, out: TextIO, ids: Mapping[str, str], clock: Clock = time.monotonic) -> None:
        self.out, self.ids, self.clock = out, ids, clock
        self.began: dict[int, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, event: Event) -> None:
        """Print an instruction that ended, unless it was cached or the same as that of another cell."""
        step = event.step
        if event.kind == "started":
            self.began[id(step)] = self.clock()
        if (
            event.kind == "ended"
            and not step.cached
            and not step.is_stopped
            and step.instruction.startswith(("RUN ", "COPY ", "exporting"))
        ):
            now = self.clock()
            seconds = now - self.began.get(id(step), now)
            how = "FAILED" if step.error else f"{seconds:.1f} s"
            stage = f"{step.stage}: " if step.stage else ""
            line = f"{stage}{_short(step.instruction)} | {how}"
            cell = self.ids.get(step.target or "", "shared")
            print(line if len({*self.ids.values()}) == 1 else f"{cell} | {line}", file=self.out, flush=True)


class Lines:
    """One line for each cell: stage, elapsed time, bytes."""

    def __init__(self, out: TextIO, ids: Mapping[str, str], clock: Clock = time.monotonic) -> None:
        self.ids, self.clock = ids, clock
        self.lines = {cell: _Line(clock()) for cell in ids.values()}
        self.live = Live(console=Console(file=out), get_renderable=self._table, refresh_per_second=5)

    def __enter__(self) -> Self:
        self.live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.__exit__(None, None, None)

    def show(self, event: Event) -> None:
        """Update the line of the cell; a vertex that cells share updates all lines."""
        step = event.step
        cell = self.ids.get(step.target or "")
        for line in [self.lines[cell]] if cell else self.lines.values():
            if event.kind == "started":
                line.stage = f"{step.stage}: {_short(step.instruction)}" if step.stage else step.name
            if event.kind == "ended":
                line.done += 1
                line.cached += step.cached
            if event.kind == "bytes":
                line.bytes = max(line.bytes, sum(step.bytes.values()))

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for cell, line in self.lines.items():
            steps = f"{line.done} steps, {line.cached} cached"
            size = f"{line.bytes / 1e6:.0f} MB"
            table.add_row(cell, f"{self.clock() - line.began:.0f} s", steps, size, line.stage[:60])
        return table


def progress(out: TextIO, ids: Mapping[str, str]) -> Progress:
    """Live lines on a terminal, plain ones elsewhere."""
    return Lines(out, ids) if out.isatty() else Plain(out, ids)


def _short(instruction: str) -> str:
    """An instruction as one short line, without its mounts."""
    words = [word for word in instruction.split() if not word.startswith("--mount")]
    text = " ".join(words)
    return text if len(text) <= 72 else text[:71] + "…"
