"""What every benchmark prints and keeps: a table of ratios, and benchmarks/results/NAME.json."""

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One piece of work: ours against theirs (or against a bound), in one run."""

    work: str
    ours: float
    theirs: float | None
    unit: str
    bound: float | None  # what `ratio` (or, without theirs, `ours`) may be; None where it is only printed
    at_most: bool = True

    @property
    def ratio(self) -> float | None:
        """Ours by theirs."""
        return self.ours / self.theirs if self.theirs else None

    @property
    def holds(self) -> bool:
        """Whether the bound is kept."""
        if self.bound is None:
            return True
        value = self.ours if self.ratio is None else self.ratio
        return value <= self.bound if self.at_most else value >= self.bound


def machine() -> dict[str, object]:
    """The machine that the figures were seen on."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": models[0].partition(": ")[2] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9),
        "load": round(os.getloadavg()[0], 1),  # at the end; the work itself is a part of it
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def report(name: str, rows: list[Row], *, keep: bool = True) -> int:
    """Print the table, keep the figures, and give the exit code: 0 where every bound holds."""
    described = machine()
    print(f"{described['processor']}, {described['cores']} cores")
    print(f"{'work':58} {'ours':>9} {'theirs':>9} {'ratio':>7} {'bound':>7}  holds")
    for row in rows:
        figures = (row.theirs, row.ratio, row.bound)
        theirs, ratio, bound = (f"{v:.2f}" if v is not None else "-" for v in figures)
        holds = "-" if row.bound is None else "yes" if row.holds else "NO"
        print(f"{row.work:58} {row.ours:7.2f} {row.unit:1} {theirs:>9} {ratio:>7} {bound:>7}  {holds}")
    if missed := [row.work.strip() for row in rows if not row.holds]:
        print(f"bounds missed ({len(missed)}): {'; '.join(missed)}")
    if keep:
        _keep(name, rows, described)
    return 1 if missed else 0


def _keep(name: str, rows: list[Row], described: dict[str, object]) -> None:
    kept = [{**asdict(row), "ratio": row.ratio, "holds": row.holds, "machine": described} for row in rows]
    file = Path(__file__).parent / "results" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(kept, indent=2) + "\n")
    print(f"kept in {file.relative_to(Path.cwd())}", file=sys.stderr)
