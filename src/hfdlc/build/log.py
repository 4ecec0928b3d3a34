"""BuildKit's progress: its raw JSON messages, as events."""

import base64
import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from typing import Any

# Errors of other vertices when one has failed: BuildKit stops them, and the transfer of files.
CONSEQUENCES = ("context canceled", "code = Canceled", "code = Unavailable")
# A program that ended by itself, not one that was killed (137).
OWN_EXIT = re.compile(r"did not complete successfully: exit code: (?!137\b)\d+")
# "[target stage 2/5] RUN …", or without the target where bake builds one alone.
NAME = re.compile(r"^\[(?P<inside>[^\]]*)\] (?P<instruction>.*)$", re.DOTALL)


@dataclass
class Vertex:
    """One vertex of the build graph: an instruction of a stage, or a transfer."""

    name: str
    target: str | None
    stage: str
    instruction: str
    started: bool = False
    ended: bool = False
    cached: bool = False
    error: str = ""
    failed_at: datetime | None = None
    seconds: float = 0.0
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=40))
    bytes: dict[str, int] = field(default_factory=dict)

    @property
    def is_stopped(self) -> bool:
        """Whether it was stopped because another one failed, or because it is the same as another one."""
        return any(word in self.error for word in CONSEQUENCES)


@dataclass(frozen=True)
class Event:
    """A vertex started, ended, wrote a line, or transferred bytes."""

    kind: str  # "started" | "ended" | "line" | "bytes"
    step: Vertex
    text: str = ""


def _between(began: str | None, ended: str) -> float:
    """Seconds between two of BuildKit's timestamps."""
    if not began:
        return 0.0
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()


class BuildLog:
    """The vertices of one build."""

    def __init__(self, targets: list[str]) -> None:
        self.targets = targets
        self.steps: dict[str, Vertex] = {}
        self.output: deque[str] = deque(maxlen=40)  # lines that are not progress messages
        self.open: list[str] = []  # the lines of an incomplete object

    def failed(self) -> list[Vertex]:
        """The vertices that failed, the first to fail first.

        BuildKit stops all others when one fails, and does not mark all of them: beside the first, only a
        vertex whose program ended by itself counts as failed.
        """
        own = [
            (step.failed_at, step) for step in self.steps.values() if step.failed_at and not step.is_stopped
        ]
        found = [step for _, step in sorted(own, key=itemgetter(0))]
        return found[:1] + [step for step in found[1:] if OWN_EXIT.search(step.error)]

    def read(self, line: str) -> Iterator[Event]:
        """Read one line of `--progress=rawjson`; other lines are kept in `output`.

        A status is one line of JSON, or (buildx before 0.14) an object over several lines.
        """
        line = line.rstrip("\n")
        if line == "{" or self.open:
            self.open.append(line)
            if line != "}":
                return
            line = "".join(self.open)
            self.open.clear()
        if not line.startswith("{"):
            self.output.append(line)
            return
        try:
            status = json.loads(line)
        except json.JSONDecodeError:  # a message that only begins like a status
            self.output.append(line)
            return
        yield from self._status(status)

    def _status(self, status: dict[str, Any]) -> Iterator[Event]:
        for vertex in status.get("vertexes") or []:
            yield from self._vertex(vertex)
        for moved in status.get("statuses") or []:
            step = self.steps.get(moved.get("vertex", ""))
            if step and moved.get("current"):
                step.bytes[moved["id"]] = moved["current"]
                yield Event("bytes", step)
        for written in status.get("logs") or []:
            if step := self.steps.get(written.get("vertex", "")):
                for text in base64.b64decode(written["data"]).decode(errors="replace").splitlines():
                    step.lines.append(text)
                    yield Event("line", step, text)

    def _vertex(self, vertex: dict[str, Any]) -> Iterator[Event]:
        step = self.steps.setdefault(vertex["digest"], self._step(vertex["name"]))
        if vertex.get("started") and not step.started:
            step.started = True
            yield Event("started", step)
        step.cached = step.cached or bool(vertex.get("cached"))
        if vertex.get("error") and vertex.get("completed"):
            step.error = vertex["error"]
            step.failed_at = step.failed_at or datetime.fromisoformat(vertex["completed"])
        if vertex.get("completed") and not step.ended:
            step.ended = True
            step.seconds = _between(vertex.get("started"), vertex["completed"])
            yield Event("ended", step)

    def _step(self, name: str) -> Vertex:
        alone = self.targets[0] if len(self.targets) == 1 else None
        match = NAME.match(name)
        if not match:
            return Vertex(name, alone, "", name)
        words = match["inside"].split()
        target = words.pop(0) if words and words[0] in self.targets else alone
        stage = words[0] if words and "/" not in words[0] else "image"
        return Vertex(name, target, stage, match["instruction"])
