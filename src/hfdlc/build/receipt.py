"""The receipt of a build: sizes of the images alone and together, and where the time went."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from hfdlc.build.log import BuildLog
from hfdlc.engine.images import Layer


@dataclass
class Receipt:
    """What a run did."""

    cells: dict[str, str] = field(default_factory=dict)  # cell -> built, up to date, skipped or failed
    alone: int = 0  # bytes (uncompressed, as all here) of the images, shared layers counted in each
    unique: int = 0  # bytes of the images, each layer counted once
    written: int = 0  # bytes of layers that were not in the engine before
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)  # stage -> seconds of its instructions
    steps: int = 0
    cached: int = 0  # vertices in BuildKit's cache
    known: int = 0  # layers that were in the layer store already

    def weigh(self, images: Mapping[str, Iterable[Layer]], before: set[str]) -> None:
        """Add the sizes of the images; `before`: the digests of layers that the engine had."""
        sizes = {layer.digest: layer.size for layers in images.values() for layer in layers}
        self.alone = sum(layer.size for layers in images.values() for layer in layers)
        self.unique = sum(sizes.values())
        self.written = sum(size for digest, size in sizes.items() if digest not in before)

    def time(self, build_log: BuildLog) -> None:
        """Add the times of a build."""
        stages: defaultdict[str, float] = defaultdict(float, self.stages)
        for step in build_log.steps.values():
            if step.ended and not step.name.startswith("[internal]"):
                self.steps += 1
                self.cached += step.cached
                stages[step.stage or step.name] += 0.0 if step.cached else step.seconds
        self.stages = {name: round(spent, 3) for name, spent in stages.items() if spent >= 0.05}

    def json(self) -> dict[str, Any]:
        """The documented keys of `hfdlc build --receipt`."""
        return asdict(self)

    def print(self) -> None:
        """Print the receipt as a table on standard error."""
        table = Table.grid(padding=(0, 2))
        for state, number in Counter(self.cells.values()).items():
            table.add_row(state, f"{number} cells")
        table.add_row("alone", _size(self.alone))
        table.add_row("together", _size(self.unique))
        table.add_row("written", _size(self.written))
        hits = f"{self.cached} of {self.steps} steps were cached, {self.known} layers were stored already"
        table.add_row("time", f"{self.seconds:.0f} s; {hits}")
        longest = sorted(self.stages.items(), key=lambda item: -item[1])[:8]
        table.add_row("", ", ".join(f"{name} {spent:.0f} s" for name, spent in longest))
        Console(stderr=True).print(table)


def text(receipt: Receipt) -> str:
    """The file of a receipt."""
    return json.dumps(receipt.json(), indent=2) + "\n"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
