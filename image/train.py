#!/opt/venv/bin/python
"""`train` of the training images: sagemaker-training, with signals that arrive and failures that explain.

sagemaker-training starts the script and waits. As process 1 of a container it would ignore SIGTERM, and the
reason of a failure would be the command that failed. Here the script gets the signal, and the reason is its
own traceback. Python 3.6 and newer.
"""

import collections
import json
import os
import re
import select
import signal
import sys
import threading
import time

BASE = os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")
CONFIG = os.path.join(BASE, "input", "config")
FAILURE = os.path.join(BASE, "output", "failure")
MODEL = os.environ.get("SM_MODEL_DIR", os.path.join(BASE, "model"))
SHOWN = 1024  # characters of the failure file that SageMaker shows
INVOKED = "Invoking script with the following command:"
TRACEBACK = "Traceback (most recent call last):"
# What TensorFlow says of itself when it is imported; its errors and fatal ones are no chatter.
CHATTER = re.compile(
    r"[IW]\d{4} [\d:.]+ +\d+ \S+\]|\d{4}-\d\d-\d\d [\d:.]+: [IW] tensorflow/"
    r"|WARNING: All log messages before absl::|To enable the following( instructions)?:"
)


class Stderr(threading.Thread):
    """Hands on standard error as it comes, this process's and the script's, and remembers its end."""

    def __init__(self):
        super().__init__(daemon=True)
        self.true = os.dup(2)
        self.read, write = os.pipe()
        os.dup2(write, 2)
        os.close(write)
        self.taking = threading.Lock()
        self.last = collections.deque(maxlen=1000)  # pieces of at most 4096 bytes

    def run(self):
        """Until the last writer has closed."""
        while select.select([self.read], [], []):
            with self.taking:
                piece = os.read(self.read, 4096)
                if not piece:
                    return
                self.last.append(piece)
            os.write(self.true, piece)

    def end(self):
        """Hand on the rest; a process that the script left behind may keep the other end open."""
        sys.stderr.flush()
        os.dup2(self.true, 2)
        self.join(timeout=1)

    def text(self):
        """What was said last, up to now: this thread may be behind a script that has just ended."""
        for _ in range(100):
            with self.taking:
                if not select.select([self.read], [], [], 0)[0]:
                    break
            time.sleep(0.01)
        return b"".join(list(self.last)).decode("utf-8", "replace")


def reason(said, told):
    """Why the script failed, in SHOWN characters: its last traceback, else its last lines, else `told`."""
    if INVOKED in said:  # the script's own begins behind the line that started it
        said = said.rpartition(INVOKED)[2].lstrip().partition("\n")[2]
    begin = said.rfind(TRACEBACK)
    text = "\n".join(_of_the_script(said[begin:] if begin >= 0 else said))
    text = text or told.strip()
    if len(text) <= SHOWN:
        return text
    # The error itself stands at the end.
    return "...\n" + text[4 - SHOWN :].split("\n", 1)[-1]


def _of_the_script(said):
    """The lines that neither sagemaker-training nor TensorFlow's import wrote, without a progress bar's."""
    lines = (line.rsplit("\r", 1)[-1].rstrip() for line in said.split("\n"))
    ours = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} sagemaker-training-toolkit ")
    for line in lines:
        if ours.match(line) and "ERROR" in line:
            return
        if line and not ours.match(line) and not CHATTER.match(line):
            yield line


def wrong_input():
    """What is wrong with what the container was given; None where nothing is."""
    documents = {}
    for name in ("hyperparameters.json", "inputdataconfig.json", "resourceconfig.json"):
        path = os.path.join(CONFIG, name)
        try:
            with open(path) as file:
                documents[name] = json.load(file)
        except FileNotFoundError:
            return f"{path} is not there"
        except ValueError as error:
            return f"{path} is no JSON: {error}"
        if not isinstance(documents[name], dict):
            return f"{path} is no object of names and values"
    if (
        not documents["hyperparameters.json"].get("sagemaker_program")
        and "SAGEMAKER_PROGRAM" not in os.environ
    ):
        return "the hyperparameter sagemaker_program does not name a script"
    return _missing_channel(documents["inputdataconfig.json"])


def _missing_channel(channels):
    for name, channel in sorted(channels.items()):
        if not isinstance(channel, dict):
            return f"the channel {name!r} of inputdataconfig.json is no object of names and values"
        folder = os.path.join(BASE, "input", "data", name)
        if channel.get("TrainingInputMode", "File") != "Pipe" and not os.path.isdir(folder):
            return f"the channel {name!r} of inputdataconfig.json has no folder {folder}"
    return None


def fail(why):
    """Leave the reason, unless the script has left one; where the disk is full, at least say it."""
    if os.path.exists(FAILURE):
        return
    try:
        os.makedirs(os.path.dirname(FAILURE), exist_ok=True)
        with open(FAILURE, "w") as file:
            file.write(why)
    except OSError as error:
        sys.stderr.write(f"train: {error}; the reason of the failure:\n{why}\n")


def hand_on(number, _frame):
    """Give a signal to what this process has started; end at once where that is nothing."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = file.read().split()
    if not children:
        fail(f"stopped by {signal.Signals(number).name} before the script began")
        os._exit(128 + number)
    for child in children:
        try:
            os.kill(int(child), number)
        except ProcessLookupError:
            pass


def train(stderr):
    """Run sagemaker-training; its exit code."""
    from sagemaker_training import files, trainer

    # What it would write is the command that failed, behind the name of its own exception.
    files.write_failure_file = lambda told: fail(reason(stderr.text(), told))
    try:
        trainer.train()
    except SystemExit as end:
        return end.code or 0
    return 0


def main():
    """Check what was given, train, tell."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hand_on)
    wrong = wrong_input()
    if wrong:
        fail(wrong)
        sys.exit("train: " + wrong)
    stderr = Stderr()
    stderr.start()
    try:
        code = train(stderr)
    finally:
        stderr.end()
    if code == 0 and not (os.path.isdir(MODEL) and os.listdir(MODEL)):
        print("train: the script left nothing in " + MODEL, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
