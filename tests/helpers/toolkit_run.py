"""What a run of the toolkit's tests inside an image reports."""

import re

# Why a test may be skipped inside an image; anything else is a test that was lost.
ACCEPTED: tuple[str, ...] = ()


def skipped(output: str) -> list[str]:
    """The lines of pytest's output (with `-rs`) that name skipped tests.

    Raises AssertionError if no test passed, if one was skipped for a reason that is not accepted, or if the
    lines do not account for all skipped tests.
    """
    *_, summary = output.strip().splitlines()
    numbers = {word: int(number) for number, word in re.findall(r"(\d+) (passed|skipped)", summary)}
    assert numbers.get("passed"), f"no test passed: {summary}"
    lines = re.findall(r"^SKIPPED \[(\d+)\] (.*)$", output, re.MULTILINE)
    assert sum(int(number) for number, _ in lines) == numbers.get("skipped", 0), output
    unknown = [line for _, line in lines if not any(re.search(reason, line) for reason in ACCEPTED)]
    assert not unknown, "tests were skipped for unknown reasons:\n" + "\n".join(unknown)
    return [f"{number} skipped, {line}" for number, line in lines]
