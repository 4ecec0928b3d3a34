#!/opt/venv/bin/python
"""`train` of the training images: sagemaker-training with signal forwarding and readable failure reasons.

sagemaker-training starts the script and waits. As process 1 of a container it would ignore SIGTERM, and the
failure reason would be the command that failed. Here the script gets the signal, and the reason is its own
traceback, or that of the process that failed first. Python 3.6 and newer.
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
# torchrun's report of processes that failed, and its log line when it sees the first of them.
REPORT = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError"
OBSERVED = re.compile(r"^.*(closing signal SIG|failed \(exitcode: )", re.MULTILINE)
ROOT_CAUSE = re.compile(
    r"Root Cause \(first observed failure\):.*?rank +: (\d+) .*?exitcode +: (-?)\d+", re.DOTALL
)
OF_RANK = re.compile(r"^\[rank(\d+)\]: ?(.*)$", re.MULTILINE)  # PyTorch 2.3 and later
# How a process ends after another one has failed.
CONSEQUENCE = re.compile(r"[Cc]onnection (was )?(closed|reset)|Broken pipe|recvValue failed|sendBytes failed")
# Log lines that TensorFlow writes when it is imported; not its errors and fatal errors.
IMPORT_LOG = re.compile(
    r"[IW]\d{4} [\d:.]+ +\d+ \S+\]|\d{4}-\d\d-\d\d [\d:.]+: [IW] tensorflow/"
    r"|WARNING: All log messages before absl::|To enable the following( instructions)?:"
)


class Stderr(threading.Thread):
    """Forwards standard error of this process and of the script, and keeps its end."""

    def __init__(self):
        super().__init__(daemon=True)
        self.original = os.dup(2)
        self.read, write = os.pipe()
        os.dup2(write, 2)
        os.close(write)
        self.lock = threading.Lock()
        self.chunks = collections.deque(maxlen=1000)  # chunks of at most 4096 bytes

    def run(self):
        while select.select([self.read], [], []):
            with self.lock:
                chunk = os.read(self.read, 4096)
                if not chunk:
                    return
                self.chunks.append(chunk)
            os.write(self.original, chunk)

    def end(self):
        """Forward the rest; a process that the script left behind may keep the other end open."""
        sys.stderr.flush()
        os.dup2(self.original, 2)
        self.join(timeout=1)

    def text(self):
        """The last output. Waits for this thread, which may be behind a script that has just ended."""
        for _ in range(100):
            with self.lock:
                if not select.select([self.read], [], [], 0)[0]:
                    break
            time.sleep(0.01)
        return b"".join(list(self.chunks)).decode("utf-8", "replace")


def reason(output, message):
    """Why the script failed, in SHOWN characters: its last traceback, else its last lines, else `message`."""
    if INVOKED in output:  # the script's own output follows the line that started it
        output = output.rpartition(INVOKED)[2].lstrip().partition("\n")[2]
    text = "\n".join(_script_lines(_failure(output))) or message.strip()
    if len(text) <= SHOWN:
        return text
    # The error itself is at the end.
    return "...\n" + text[4 - SHOWN :].split("\n", 1)[-1]


def _failure(output):
    """The part of the output that says why: the last traceback, unless it is that of a launcher."""
    if REPORT in output:
        return _failing_process(output)
    found = _tracebacks(output)
    if len(found) > 1 and "subprocess.CalledProcessError: Command" in found[-1]:  # accelerate launch
        found.pop()
    return found[-1] if found else output


def _tracebacks(output):
    return [TRACEBACK + text for text in output.split(TRACEBACK)[1:]]


def _failing_process(output):
    """The traceback of the process that failed first, else torchrun's report of it.

    PyTorch 2.3 and later write the rank before each line of a traceback, once processes are connected.
    """
    cause = ROOT_CAUSE.search(output)
    if cause and cause.group(2):  # a signal, which leaves no traceback
        return output[cause.start() :]
    by_rank = {}
    for rank, line in OF_RANK.findall(output):
        by_rank.setdefault(rank, []).append(line)
    if cause and cause.group(1) in by_rank:  # first, although processes that fail together are in any order
        by_rank = {cause.group(1): by_rank.pop(cause.group(1)), **by_rank}
    found = [text for lines in by_rank.values() for text in _tracebacks("\n".join(lines))[-1:]]
    observed = OBSERVED.search(output)
    found += reversed(_tracebacks(output[: observed.start() if observed else output.rfind(TRACEBACK)]))
    first = [text for text in found if not CONSEQUENCE.search(text)]
    return (first + found + [output[cause.start() if cause else output.rfind(REPORT) :]])[0]


def _script_lines(output):
    """The lines that the script wrote itself, without earlier states of progress bars."""
    lines = (line.rsplit("\r", 1)[-1].rstrip() for line in output.split("\n"))
    ours = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} sagemaker-training-toolkit ")
    for line in lines:
        if ours.match(line) and "ERROR" in line:
            return
        if line and not ours.match(line) and not IMPORT_LOG.match(line):
            yield line


def input_error():
    """The error in the container's input files; None if there is none."""
    documents = {}
    for name in ("hyperparameters.json", "inputdataconfig.json", "resourceconfig.json"):
        path = os.path.join(CONFIG, name)
        try:
            with open(path) as file:
                documents[name] = json.load(file)
        except FileNotFoundError:
            return f"{path} does not exist"
        except ValueError as error:
            return f"{path} is not JSON: {error}"
        if not isinstance(documents[name], dict):
            return f"{path} is not a JSON object"
    if (
        not documents["hyperparameters.json"].get("sagemaker_program")
        and "SAGEMAKER_PROGRAM" not in os.environ
    ):
        return "the hyperparameter sagemaker_program does not name a script"
    return _missing_channel(documents["inputdataconfig.json"])


def _missing_channel(channels):
    for name, channel in sorted(channels.items()):
        if not isinstance(channel, dict):
            return f"the channel {name!r} of inputdataconfig.json is not a JSON object"
        folder = os.path.join(BASE, "input", "data", name)
        if channel.get("TrainingInputMode", "File") != "Pipe" and not os.path.isdir(folder):
            return f"the channel {name!r} of inputdataconfig.json has no folder {folder}"
    return None


def fail(why):
    """Write the failure reason, unless the script has written one; if the disk is full, print it."""
    if os.path.exists(FAILURE):
        return
    try:
        os.makedirs(os.path.dirname(FAILURE), exist_ok=True)
        with open(FAILURE, "w") as file:
            file.write(why)
    except OSError as error:
        sys.stderr.write(f"train: {error}; the reason of the failure:\n{why}\n")


def forward_signal(number, _frame):
    """Forward a signal to the child processes; exit at once if there are none."""
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

    # It would write the command that failed, after the name of its own exception.
    files.write_failure_file = lambda message: fail(reason(stderr.text(), message))
    try:
        trainer.train()
    except SystemExit as end:
        return end.code or 0
    return 0


def main():
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward_signal)
    error = input_error()
    if error:
        fail(error)
        sys.exit("train: " + error)
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
