#!/opt/venv/bin/python
"""`train` of the training images: sagemaker-training with signal forwarding and readable failure reasons.

sagemaker-training starts the script and waits. As process 1 of a container it would ignore SIGTERM, and the
failure reason would be the command that failed. Here the script gets the signal, and the reason is its own
traceback, or that of the process that failed first. Python 3.6 and newer.
"""

import collections
import contextlib
import errno
import glob
import importlib.util
import json
import logging
import os
import re
import select
import shutil
import signal
import socket
import sys
import threading
import time

BASE = os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")
CONFIG = os.path.join(BASE, "input", "config")
FAILURE = os.path.join(BASE, "output", "failure")
MODEL = os.environ.get("SM_MODEL_DIR", os.path.join(BASE, "model"))
SHOWN = 1024  # characters of the failure file that SageMaker shows
MASTER_PORT = "7777"  # as in AWS's PyTorch images
# Seconds until a host name resolves. Other hosts may start later; sagemaker-training waits for them as long.
OWN_NAME, OTHER_NAMES = 60, 900
# Seconds until all hosts are about to start the script; 0: none waits for another.
JOIN_TIMEOUT, JOIN = "HFDLC_JOIN_TIMEOUT", "900"
SILENT = 5  # seconds of waiting that are not reported, and for which a connection may be silent
JOINED, NOT_JOINED = "joined", "error: "  # answers of the first host
WORKER_PORT = 8890  # of TensorFlow's workers, as in AWS's TensorFlow images
GPUS = ("/dev/nvidia[0-9]*", "/dev/dxg")  # devices: of the driver, and of the one for Windows
# Distributions of the SageMaker SDK by the hyperparameter that enables them.
TORCHRUN = {
    "sagemaker_torch_distributed_enabled": "torch_distributed",
    "sagemaker_pytorch_ddp_enabled": "pytorchddp",
}
MPI = {"sagemaker_mpi_enabled": "mpi"}
MIRRORED = {"sagemaker_multi_worker_mirrored_strategy_enabled": "multi_worker_mirrored_strategy"}
OTHERS = {
    "sagemaker_distributed_dataparallel_enabled": "smdistributed.dataparallel",
    "sagemaker_parameter_server_enabled": "parameter_server",
    "sagemaker_pytorch_xla_multi_worker_enabled": "pytorchxla",
}
# Names of hyperparameters and variables whose values are not printed, if they have 8 characters or more.
SECRET = re.compile(r"(^|[_.-])(token|key|credentials?)s?$|secret|passw(or)?d", re.IGNORECASE)
URL_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
INVOKED = "Invoking script with the following command:"
TRACEBACK = "Traceback (most recent call last):"
# torchrun's report of processes that failed, and its log line when it sees the first of them.
REPORT = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError"
OBSERVED = re.compile(r"^.*(closing signal SIG|failed \(exitcode: )", re.MULTILINE)
ROOT_CAUSE = re.compile(
    r"Root Cause \(first observed failure\):.*?rank +: (\d+) .*?exitcode +: (-?)\d+", re.DOTALL
)
OF_RANK = re.compile(r"^\[rank(\d+)\]: ?(.*)$", re.MULTILINE)  # PyTorch 2.3 and later
PREFIX = re.compile(r"^\[rank\d+\]: ?", re.MULTILINE)
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
    return PREFIX.sub("", found[-1]) if found else output


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


def read_input():
    """The container's input files by name, and the error in them; None if there is none."""
    documents = {}
    return documents, _input_error(documents)


def _input_error(documents):
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
    hyperparameters, resources = documents["hyperparameters.json"], documents["resourceconfig.json"]
    if not hyperparameters.get("sagemaker_program") and "SAGEMAKER_PROGRAM" not in os.environ:
        return "the hyperparameter sagemaker_program does not name a script"
    hosts = resources.get("hosts")
    if not isinstance(hosts, list) or resources.get("current_host") not in hosts:
        return f"{path} does not name hosts, and the current_host among them"
    return (
        _wrong_variable()
        or _wrong_distribution(hyperparameters)
        or _missing_channel(documents["inputdataconfig.json"])
    )


def _wrong_variable():
    for name, default, most in (("MASTER_PORT", MASTER_PORT, 65535), (JOIN_TIMEOUT, JOIN, 10**6)):
        text = os.environ.get(name, default)
        if not (text.isdigit() and int(text) <= most):
            return f"the variable {name} is not a number from 0 to {most}: {text}"
    return None


def enabled(hyperparameters, distributions):
    """The names of the distributions that are enabled."""
    return [
        name
        for key, name in sorted(distributions.items())
        if str(hyperparameters.get(key)).strip('"').lower() == "true"
    ]


def _wrong_distribution(hyperparameters):
    """Without this, a script that does not look would train alone on every host."""
    if "SAGEMAKER_TRAINING_MODULE" in os.environ:  # an image with a framework module of its own
        return None
    needs = [(name, ["torchrun"]) for name in enabled(hyperparameters, TORCHRUN)]
    needs += [(name, ["mpirun", "sshd"]) for name in enabled(hyperparameters, MPI)]
    for name, programs in needs:
        missing = [program for program in programs if not _program(program)]
        if missing:
            return f"the distribution {name} needs {' and '.join(missing)}, not in this image{_instead(name)}"
    if enabled(hyperparameters, MIRRORED) and not _has_tensorflow():
        (name,) = MIRRORED.values()
        return f"the distribution {name} needs TensorFlow, not in this image{_instead(name)}"
    others = enabled(hyperparameters, OTHERS)
    return f"the distribution {others[0]} is not supported{_instead(others[0])}" if others else None


def _program(name):
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))


def _has_tensorflow():
    return importlib.util.find_spec("tensorflow") is not None


def _instead(name):
    if _program("torchrun"):
        return "; use torch_distributed" if name not in TORCHRUN.values() else ""
    return "; use multi_worker_mirrored_strategy" if _has_tensorflow() else ""


def set_addresses(resources):
    """Set what AWS's PyTorch images set for `init_process_group`, unless the user has set it."""
    interface = resources.get("network_interface_name") or "eth0"
    values = {
        "MASTER_ADDR": sorted(resources["hosts"])[0],
        "MASTER_PORT": MASTER_PORT,
        "NCCL_SOCKET_IFNAME": interface,
    }
    if os.path.exists("/sys/class/net/" + interface):  # gloo fails where there is none
        values["GLOO_SOCKET_IFNAME"] = interface
    if len(resources["hosts"]) == 1 and not _resolves(socket.gethostname()):
        values["PET_LOCAL_ADDR"] = "127.0.0.1"  # torchrun waits without end for its own host's name
    for name, value in values.items():
        os.environ.setdefault(name, value)


def set_tensorflow_cluster(hyperparameters, resources):
    """Set TF_CONFIG as AWS's TensorFlow images do for MultiWorkerMirroredStrategy, unless the user has."""
    if not enabled(hyperparameters, MIRRORED):
        return
    hosts = sorted(resources["hosts"])
    # Hosts that share a loopback interface share its ports.
    step = 1 if resources.get("network_interface_name") == "lo" else 0
    cluster = {
        "cluster": {"worker": [f"{host}:{WORKER_PORT + step * n}" for n, host in enumerate(hosts)]},
        "environment": "cloud",
        "task": {"index": hosts.index(resources["current_host"]), "type": "worker"},
    }
    os.environ.setdefault("TF_CONFIG", json.dumps(cluster))


def use_cpu_without_gpus():
    """Without this, accelerate and Trainer ignore torchrun on a CPU: each process would train alone."""
    if not any(glob.glob(pattern) for pattern in GPUS):
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")


def unresolved_host(resources):
    """Wait until the names of all hosts resolve; the error if one does not in time."""
    if _in_studio():
        return None
    for host in sorted(resources["hosts"]):
        limit = OWN_NAME if host == resources["current_host"] else OTHER_NAMES
        began = time.monotonic()
        waits = False
        while not _resolves(host):
            if time.monotonic() - began >= limit:
                return (
                    f"the host {host} does not resolve after {limit} s: start its container with"
                    f" --hostname {host}, in a network where the hosts resolve each other"
                )
            if not waits:
                sys.stderr.write(f"train: waiting up to {limit} s until the host {host} resolves\n")
                sys.stderr.flush()
                waits = True
            time.sleep(0.5)
    return None


def _in_studio():
    """Whether hosts have the network of the machine, and do not resolve; sagemaker-training does not wait."""
    return os.environ.get("SM_STUDIO_LOCAL_MODE", "").lower() == "true"


def _resolves(host):
    try:
        socket.gethostbyname(host)
    except OSError:
        return False
    return True


def used_port(hyperparameters, resources):
    """The error if the first host cannot listen at the port where the others, or its processes, connect."""
    hosts, port = sorted(resources["hosts"]), os.environ["MASTER_PORT"]
    connects = len(hosts) > 1 or enabled(hyperparameters, TORCHRUN)
    if not connects or resources["current_host"] != hosts[0]:
        return None
    try:
        _listener("", port).close()
    except OSError as error:
        return _unusable(hosts[0], port, error)
    return None


def _unusable(host, port, error):
    return f"the port {port} of {host} cannot be used: {error.strerror}; set MASTER_PORT to another one"


def _listener(address, port):
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, int(port)))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


class Waiting:
    """A time limit for other hosts, and a line in the log where they are not there at once."""

    def __init__(self, limit):
        self.limit, self.began, self.reported = limit, time.monotonic(), False

    def left(self):
        """Seconds until the limit."""
        return self.limit - (time.monotonic() - self.began)

    def report(self, hosts):
        """Print once which hosts are missing."""
        if not self.reported and time.monotonic() - self.began > SILENT:
            sys.stderr.write(f"train: waiting up to {self.limit} s until {_named(hosts)} joined\n")
            sys.stderr.flush()
            self.reported = True


def _named(hosts):
    more = f" and {len(hosts) - 8} more" if len(hosts) > 8 else ""
    return f"the hosts {', '.join(hosts[:8])}{more} have" if len(hosts) > 1 else f"the host {hosts[0]} has"


def _missing(hosts, limit, why):
    return (
        f"{_named(hosts)} not joined after {limit} s: {why}. Start all containers with this image and the"
        f" command train; {JOIN_TIMEOUT} is the limit in seconds"
    )


def join(resources):
    """Wait until all hosts are about to start the script; the error if one is not in time.

    The script or its launcher would not name a host that is missing. The first host listens at MASTER_PORT,
    as its script does afterwards. Each of the others sends its name, and gets an answer when all have.
    """
    hosts, limit = sorted(resources["hosts"]), int(os.environ.get(JOIN_TIMEOUT, JOIN))
    if len(hosts) == 1 or not limit or _in_studio():
        return None
    if resources["current_host"] != hosts[0]:
        return _join_first(hosts[0], resources["current_host"], Waiting(limit))
    try:
        try:
            listener = _listener(socket.gethostbyname(hosts[0]), os.environ["MASTER_PORT"])
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:  # an address that only the others have
                raise
            listener = _listener("", os.environ["MASTER_PORT"])
    except OSError as error:
        return _unusable(hosts[0], os.environ["MASTER_PORT"], error)
    with contextlib.closing(listener):
        return _await_others(hosts, listener, Waiting(limit))


def _await_others(hosts, listener, waiting):
    joined, missing = {}, hosts[1:]
    while missing and waiting.left() > 0:
        waiting.report(missing)
        listener.settimeout(max(min(1, SILENT, waiting.left()), 0.001))
        try:
            connection, _ = listener.accept()
        except socket.timeout:
            continue
        connection.settimeout(SILENT)
        name = _line(connection)
        if name in hosts[1:]:
            joined[name] = connection
            missing = [host for host in hosts[1:] if host not in joined]
        else:
            connection.close()
    error = None
    if missing:
        port, address = os.environ["MASTER_PORT"], _address(missing[0])
        why = f"{missing[0]} ({address}) did not connect to port {port} of {hosts[0]}"
        error = _missing(missing, waiting.limit, why)
    for connection in joined.values():
        _answer(connection, NOT_JOINED + error if error else JOINED)
    return error


def _join_first(first, name, waiting):
    port, why = os.environ["MASTER_PORT"], "no answer"
    while waiting.left() > 0:
        waiting.report([first])
        try:
            with socket.create_connection((first, int(port)), timeout=SILENT) as connection:
                connection.sendall(f"{name}\n".encode())
                connection.settimeout(waiting.limit + SILENT)  # the first host waits as long for the others
                answer = _line(connection)
        except OSError as error:
            why, answer = error.strerror or str(error), None
        if answer == JOINED:
            return None
        if answer and answer.startswith(NOT_JOINED):
            return answer[len(NOT_JOINED) :]
        time.sleep(0.5)  # it does not listen yet
    return _missing([first], waiting.limit, f"port {port} of {first} ({_address(first)}): {why}")


def _line(connection):
    """The line that comes over a connection; None without one, as from another program."""
    data = b""
    try:
        while not data.endswith(b"\n"):
            more = connection.recv(4096)
            if not more or len(data) > 4096:
                return None
            data += more
    except OSError:
        return None
    return data[:-1].decode("utf-8", "replace")


def _answer(connection, text):
    """Send a line, and let the other end close first: this port must not stay in TIME_WAIT."""
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.sendall(f"{text}\n".encode())
        connection.recv(1)


def _address(host):
    try:
        return socket.gethostbyname(host)
    except OSError:
        return "not known"


class Mask(logging.Filter):
    """Replaces secrets in log lines: sagemaker-training prints all hyperparameters."""

    def __init__(self, hyperparameters):
        super().__init__()
        values = set()
        for name, value in [*os.environ.items(), *hyperparameters.items()]:
            if SECRET.search(name):
                text = str(value).strip('"')
                values.update((text, json.dumps(text)[1:-1]))
        self.values = sorted((value for value in values if len(value) >= 8), key=len, reverse=True)

    def filter(self, record):
        record.msg, record.args = self.text(record.getMessage()), ()
        return True

    def text(self, text):
        """The text with `***` for each secret."""
        for value in self.values:
            text = text.replace(value, "***")
        return URL_PASSWORD.sub(r"\1***@", text)


def _missing_channel(channels):
    for name, channel in sorted(channels.items()):
        if not isinstance(channel, dict):
            return f"the channel {name!r} of inputdataconfig.json is not a JSON object"
        folder = os.path.join(BASE, "input", "data", name)
        if channel.get("TrainingInputMode") == "Pipe":
            return f"the channel {name!r} has the input mode Pipe, not supported here: use File or FastFile"
        if not os.path.isdir(folder):
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


def train(stderr, hyperparameters, resources):
    """Run sagemaker-training; its exit code."""
    from sagemaker_training import files, logging_config, trainer

    mask = Mask(hyperparameters)
    logging_config.get_logger().addFilter(mask)
    # It would write the command that failed, after the name of its own exception.
    files.write_failure_file = lambda message: fail(mask.text(reason(stderr.text(), message)))
    if enabled(hyperparameters, TORCHRUN) and "SAGEMAKER_TRAINING_MODULE" not in os.environ:
        _use_torchrun()
    _join_before_start(resources)
    try:
        trainer.train()
    except SystemExit as end:
        return end.code or 0
    return 0


def _use_torchrun():
    """Make sagemaker-training run the script with torchrun, as AWS's PyTorch images do."""
    from sagemaker_training import entry_point, process, runner, torch_distributed

    # Its own takes the arguments in another order than `entry_point.run` gives: it would ignore failures.
    torch_distributed.TorchDistributedRunner.run = process.ProcessRunner.run
    torch_distributed.MASTER_PORT = os.environ["MASTER_PORT"]  # on several hosts
    os.environ.setdefault("PET_MASTER_PORT", os.environ["MASTER_PORT"])  # on one host
    run = entry_point.run

    def run_distributed(*arguments, **options):
        return run(*arguments, **dict(options, runner_type=runner.TorchDistributedRunnerType))

    entry_point.run = run_distributed


def _join_before_start(resources):
    """Make sagemaker-training wait for all hosts, after it has installed requirements.txt."""
    from sagemaker_training import errors, runner

    get = runner.get

    def get_when_joined(*arguments, **options):
        error = join(resources)
        if error:
            fail(error)
            raise errors.ClientError(error)
        return get(*arguments, **options)

    runner.get = get_when_joined


def main():
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward_signal)
    documents, error = read_input()
    if not error:
        resources, hyperparameters = documents["resourceconfig.json"], documents["hyperparameters.json"]
        set_addresses(resources)
        set_tensorflow_cluster(hyperparameters, resources)
        use_cpu_without_gpus()
        error = used_port(hyperparameters, resources) or unresolved_host(resources)
    if error:
        fail(error)
        sys.exit("train: " + error)
    stderr = Stderr()
    stderr.start()
    try:
        code = train(stderr, hyperparameters, resources)
    finally:
        stderr.end()
    is_first = resources["current_host"] == sorted(resources["hosts"])[0]  # only its model is kept
    if code == 0 and is_first and not (os.path.isdir(MODEL) and os.listdir(MODEL)):
        print("train: the script left nothing in " + MODEL, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
