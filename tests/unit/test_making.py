"""What making images does about faults of the engine; no engine is needed for that."""

from types import SimpleNamespace
from typing import Any

import pytest

from hfdlc import making, plan
from hfdlc.build import BuildFailed
from hfdlc.receipt import Receipt
from hfdlc.solve import PASSING, Solve, Step


def failure(*errors: str) -> BuildFailed:
    solve = Solve(["one"])
    solve.steps = {str(n): Step("exporting", None, "", "", error=error) for n, error in enumerate(errors)}
    return BuildFailed("no", solve=solve, cells=["one"], alone=False, where="here", then="that")


@pytest.mark.parametrize(
    ("failures", "tries", "fails"),
    [
        ([failure(f'{PASSING} "x": parent snapshot y does not exist')], 2, False),
        ([failure(f"{PASSING} x")] * 2, 2, True),
        ([failure(f"{PASSING} x", "exit code: 1")], 1, True),
        ([failure("exit code: 1")], 1, True),
    ],
)
def test_a_layer_that_the_engine_lost_is_asked_for_once_more(
    failures: list[BuildFailed], tries: int, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mock engine: the fault comes by chance when layers are cleared away, and cannot be made."""
    asked, left = [], list(failures)

    def build(*_: Any) -> Any:
        asked.append(1)
        if left:
            raise left.pop(0)
        return SimpleNamespace(solve=Solve([]), log="log")

    monkeypatch.setattr("hfdlc.build.build", build)
    monkeypatch.setattr(plan, "bake", lambda *_: {})
    anything: Any = SimpleNamespace(matrix=None, root=None, inputs={"one": None})
    cell: Any = SimpleNamespace(id="one")
    failed: dict[str, Any] = {}
    making._rounds([cell], anything, anything, anything, anything, Receipt(), failed)
    assert (len(asked), bool(failed)) == (tries, fails)
