"""The results of an image's checks, kept by its digest."""

import functools
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hfdlc.state import State, write_whole

CHECKS = Path(__file__).parent
NEEDS_GPU = "needs a GPU"  # the reason of checks that were not run begins with it


@dataclass
class Report:
    """The results of an image's checks."""

    cell: str
    digest: str  # the engine's id of the image: of its manifest, with the containerd image store
    date: str
    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # check -> message
    not_run: dict[str, str] = field(default_factory=dict)  # check -> why
    checks: str = ""  # the digest of the checks themselves
    config_digest: str = ""  # the identity of the image

    @property
    def needs_gpu(self) -> list[str]:
        """The checks that were not run because they had no GPU."""
        return [name for name, why in self.not_run.items() if why.startswith(NEEDS_GPU)]

    def json(self) -> dict[str, Any]:
        """The documented keys of `hfdlc test --json`."""
        return asdict(self)


def remembered(identity: str, state: State) -> Report | None:
    """The kept report of the current checks for the image with this config digest, if all passed."""
    try:
        report = Report(**json.loads(_record(identity, state).read_text()))
    except (OSError, ValueError, TypeError):  # none, or of another version of this program
        return None
    return None if report.failed or report.checks != checks() else report


@functools.cache
def checks() -> str:
    """The digest of the checks: results of other checks do not count."""
    text = b"".join(file.read_bytes() for file in sorted(CHECKS.glob("*.py")))
    return "sha256:" + hashlib.sha256(text).hexdigest()


def remember(report: Report, state: State) -> None:
    """Keep a report for its image."""
    write_whole(
        _record(report.config_digest or report.digest, state), json.dumps(report.json(), indent=2) + "\n"
    )


def _record(identity: str, state: State) -> Path:
    return state.root / "checks" / f"{identity.replace(':', '-')}.json"
