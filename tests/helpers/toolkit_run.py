"""What a run of the toolkit's tests inside an image reports."""

import re

# Why a test may be skipped inside an image; any other reason is an error.
ACCEPTED = (
    # what a build machine or a container does not have
    r"needs a GPU",
    r"curl is not installed",
    r"no JDK is installed",
    r"no Python \S+ here",
    r"needs a Python before 3\.9",
    r"no (process|mount) namespaces here",
    r"setpriv is missing",
    r"this image has no OpenVINO",
    r"are in a temporary folder",
    r"this processor has no \w+",
    # what the release of transformers, its client or PyTorch in the image does not have
    r"transformers \S+ has no (\S+ )?pipeline",
    r"transformers \S+: unknown task",
    r"the installed transformers has",
    r"the client of this release has no text_generation, or the task is not its",
    r"this release",
    r"older releases have fewer tables",
    r"needs (another package|\w+), which this image does not have",
    r"is refused by name here",
    r"(sentence-transformers|peft|accelerate|bitsandbytes) is not installed",
    # tests of PyTorch, in an image of TensorFlow
    r"shown on PyTorch",
    r"sentence-embeddings needs PyTorch",
    r"could not import 'torch'",
    r"needs tensorflow-probability",
)


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
