"""Training: what a container is given, how its log is read, why it failed, and models as people name them."""

import json
import logging
import os
import tarfile
from pathlib import Path, PurePosixPath
from types import ModuleType

import pytest

from hfdlc.errors import UserError
from hfdlc.project import Project
from hfdlc.sagemaker import models, progress, training
from hfdlc.sagemaker.endpoint import matching
from hfdlc.sagemaker.job import CODE, Job
from hfdlc.sagemaker.source import Source
from hfdlc.sagemaker.training import Order
from hfdlc.state import State

ROOT = Path(__file__).parents[2]


STARTED = (
    "2026-11-23 12:00:00,001 sagemaker-training-toolkit INFO     Invoking user script\n"
    "SM_HOSTS=[]\n\nInvoking script with the following command:\n\n/opt/venv/bin/python train.py\n\n\n"
)
TRACE = 'Traceback (most recent call last):\n  File "train.py", line 1, in <module>\nValueError: no'


def test_the_reason_is_the_scripts_last_traceback(inside: ModuleType) -> None:
    """Not what the script said before, not what sagemaker-training says after."""
    after = "\n2026-11-23 12:00:00,001 sagemaker-training-toolkit ERROR    Reporting training FAILURE\nmore"
    assert inside.reason(f"{STARTED}hello\n{TRACE}{after}", "message") == TRACE


def test_failure_reason_without_a_traceback_is_the_last_output(inside: ModuleType) -> None:
    """A shell script, or `sys.exit("why")`; a progress bar's states are left out."""
    assert inside.reason(STARTED + "10%\r20%\rno data\n", "message") == "no data"
    assert inside.reason(STARTED, "message\n") == "message"


def test_log_lines_of_tensorflow_are_not_the_failure_reason(inside: ModuleType) -> None:
    """As TensorFlow 2.21 and 2.4 say it; an error of theirs stays."""
    said = (
        "I0000 00:00:1795449331.282619       1 cpu_feature_guard.cc:227] This TensorFlow is optimized\n"
        "To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow\n"
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        "2026-11-23 12:00:00.123456: I tensorflow/core/platform/cpu_feature_guard.cc:142] This binary\n"
        "E0000 00:00:1795449331.282619       1 cuda.cc:1] no device\n"
    )
    reason = inside.reason(f"{STARTED}{said}python: can't open file 'other.py'\n", "message")
    assert reason == (
        "E0000 00:00:1795449331.282619       1 cuda.cc:1] no device\npython: can't open file 'other.py'"
    )


@pytest.mark.parametrize(
    ("name", "begin", "end"),
    [
        ("before_init", "Traceback (most recent call last):", "ValueError: rank one before"),
        ("after_init", "Traceback (most recent call last):", "ValueError: rank one after"),
        ("killed", "Root Cause (first observed failure):", "Signal 9 (SIGKILL) received by PID 17130"),
    ],
)
def test_the_reason_is_the_traceback_of_the_rank_that_failed_first(
    inside: ModuleType, name: str, begin: str, end: str
) -> None:
    """Output of torchrun (PyTorch 2.13) with two processes, before and after they were connected."""
    output = (ROOT / "tests" / "data" / "torchrun" / f"{name}.txt").read_text()
    reason = inside.reason(f"{STARTED}{TRACE.replace('no', 'caught')}\n{output}", "message")
    assert reason.startswith(begin)
    assert reason.rstrip("=\n").endswith(end)
    assert "ChildFailedError" not in reason


def test_the_reason_has_no_rank_before_its_lines(inside: ModuleType) -> None:
    """A script that connects its processes without torchrun, as in AWS's example."""
    output = "\n".join(f"[rank1]: {line}" for line in TRACE.split("\n"))
    assert inside.reason(f"{STARTED}{output}\n", "message") == TRACE


def test_a_rank_that_only_lost_its_connection_is_not_the_reason(inside: ModuleType) -> None:
    """Torchrun may see it first."""
    output = (ROOT / "tests" / "data" / "torchrun" / "after_init.txt").read_text()
    for old, new in (("rank      : 1", "rank      : x"), ("rank      : 0", "rank      : 1"), ("x", "0")):
        output = output.replace(old, new)
    assert inside.reason(output, "message").endswith("ValueError: rank one after")


def test_a_launchers_traceback_is_not_the_reason(inside: ModuleType) -> None:
    """`accelerate launch` with one process ends with an error about its child."""
    launcher = "Traceback (most recent call last):\nsubprocess.CalledProcessError: Command '[...]' returned 1"
    assert inside.reason(f"{STARTED}{TRACE}\n{launcher}\n", "message") == TRACE
    assert inside.reason(f"{STARTED}{launcher}\n", "message") == launcher


def test_long_failure_reason_keeps_its_end(inside: ModuleType) -> None:
    """SageMaker shows 1,024 characters; the error stands at the end."""
    long = TRACE.replace("ValueError", "  a line of it\n" * 100 + "ValueError")
    reason = inside.reason(STARTED + long, "message")
    assert len(reason) <= inside.SHOWN
    assert reason.startswith("...\n  a line of it\n")
    assert reason.endswith("ValueError: no")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("hyperparameters.json", None, "hyperparameters.json does not exist"),
        ("hyperparameters.json", "{epochs: 2", "hyperparameters.json is not JSON"),
        ("hyperparameters.json", "[]", "hyperparameters.json is not a JSON object"),
        ("hyperparameters.json", "{}", "sagemaker_program does not name a script"),
        (
            "inputdataconfig.json",
            '{"other": {}}',
            "the channel 'other' of inputdataconfig.json has no folder",
        ),
        (
            "inputdataconfig.json",
            '{"training": {"TrainingInputMode": "Pipe"}}',
            "the channel 'training' has the input mode Pipe, not supported here: use File or FastFile",
        ),
        (
            "inputdataconfig.json",
            '{"other": 1}',
            "the channel 'other' of inputdataconfig.json is not a JSON object",
        ),
        ("resourceconfig.json", "", "resourceconfig.json is not JSON"),
        ("resourceconfig.json", "{}", "resourceconfig.json does not name hosts"),
        ("resourceconfig.json", '{"hosts": ["a"], "current_host": "b"}', "the current_host among them"),
    ],
)
def test_wrong_container_input_is_an_error(
    inside: ModuleType,
    name: str,
    content: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before sagemaker-training sees it: one line, with the file and what is wrong."""
    monkeypatch.setattr(inside, "CONFIG", str(tmp_path))
    monkeypatch.setattr(inside, "BASE", str(tmp_path))
    (tmp_path / "input" / "data" / "training").mkdir(parents=True)
    right = {
        "hyperparameters.json": '{"sagemaker_program": "train.py"}',
        "inputdataconfig.json": '{"training": {}}',
        "resourceconfig.json": '{"hosts": ["algo-1"], "current_host": "algo-1"}',
    }
    for each, text in right.items():
        (tmp_path / each).write_text(text)
    assert inside.read_input()[1] is None
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    assert said in inside.read_input()[1]


TORCH, DDP = "sagemaker_torch_distributed_enabled", "sagemaker_pytorch_ddp_enabled"
MIRRORED = "sagemaker_multi_worker_mirrored_strategy_enabled"
HAS = {"torchrun", "sshd", "mpirun"}


@pytest.mark.parametrize(
    ("name", "value", "programs", "said"),
    [
        (TORCH, "true", HAS, None),
        (DDP, True, HAS, None),
        (TORCH, "false", set(), None),
        (TORCH, "true", set(), "the distribution torch_distributed needs torchrun, not in this image"),
        (DDP, '"True"', set(), "the distribution pytorchddp needs torchrun, not in this image"),
        ("sagemaker_mpi_enabled", "true", HAS, None),
        (
            "sagemaker_mpi_enabled",
            "true",
            {"torchrun"},
            "the distribution mpi needs mpirun and sshd, not in this image; use torch_distributed",
        ),
        ("sagemaker_mpi_enabled", "true", {"sshd"}, "the distribution mpi needs mpirun, not in this image"),
        (
            "sagemaker_distributed_dataparallel_enabled",
            "true",
            HAS,
            "the distribution smdistributed.dataparallel is not supported; use torch_distributed",
        ),
        (MIRRORED, "true", {"tensorflow"}, None),
        (
            MIRRORED,
            "true",
            HAS,
            "the distribution multi_worker_mirrored_strategy needs TensorFlow, not in this image"
            "; use torch_distributed",
        ),
        (
            "sagemaker_parameter_server_enabled",
            "true",
            {"tensorflow"},
            "the distribution parameter_server is not supported; use multi_worker_mirrored_strategy",
        ),
    ],
)
def test_distribution_that_the_image_cannot_run_is_an_error(
    inside: ModuleType,
    name: str,
    value: object,
    programs: set[str],
    said: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was ignored: the script trained alone on every host, and the job succeeded."""
    monkeypatch.setattr(inside, "_program", lambda program: program if program in programs else None)
    monkeypatch.setattr(inside, "_has_tensorflow", lambda: "tensorflow" in programs)
    assert inside._wrong_distribution({name: value}) == said


def test_addresses_are_set_as_in_images_of_aws(inside: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """For `init_process_group`; a variable of the user stays."""
    monkeypatch.setattr(inside.os, "environ", {"MASTER_PORT": "29500"})
    inside.set_addresses({"hosts": ["algo-2", "algo-1"], "network_interface_name": "lo"})
    assert inside.os.environ == {
        "MASTER_ADDR": "algo-1",
        "MASTER_PORT": "29500",
        "NCCL_SOCKET_IFNAME": "lo",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    monkeypatch.setattr(inside.os, "environ", {})
    monkeypatch.setattr(inside, "_resolves", lambda _: True)
    inside.set_addresses({"hosts": ["algo-1"], "network_interface_name": "none0"})
    assert inside.os.environ["MASTER_PORT"] == "7777"
    assert "PET_LOCAL_ADDR" not in inside.os.environ
    assert "GLOO_SOCKET_IFNAME" not in inside.os.environ


@pytest.mark.parametrize(
    ("devices", "before", "after"),
    [([], {}, "true"), ([], {"ACCELERATE_USE_CPU": "no"}, "no"), (["nvidia0"], {}, None)],
)
def test_accelerate_uses_the_cpu_where_there_is_no_gpu(
    inside: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    devices: list[str],
    before: dict[str, str],
    after: str | None,
) -> None:
    """It would not look at torchrun's ranks; a variable of the user stays."""
    for name in devices:
        (tmp_path / name).touch()
    monkeypatch.setattr(inside, "GPUS", [str(tmp_path / "nvidia[0-9]*")])
    monkeypatch.setattr(inside.os, "environ", dict(before))
    inside.use_cpu_without_gpus()
    assert inside.os.environ.get("ACCELERATE_USE_CPU") == after


def test_torchrun_does_not_wait_for_a_host_name_that_does_not_resolve(
    inside: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`docker run --network none` without --hostname: it would connect to that name without end."""
    monkeypatch.setattr(inside.os, "environ", {})
    monkeypatch.setattr(inside, "_resolves", lambda name: name == "algo-1")
    inside.set_addresses({"hosts": ["algo-1"]})
    assert inside.os.environ["PET_LOCAL_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize(("host", "limit"), [("algo-1", 0), ("algo-2", 1)])
def test_host_that_does_not_resolve_is_named(
    inside: ModuleType,
    host: str,
    limit: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At once that it is awaited, and for how long; then what to do."""
    monkeypatch.setattr(inside, "OWN_NAME", 0)
    monkeypatch.setattr(inside, "OTHER_NAMES", 1)
    monkeypatch.setattr(inside, "_resolves", lambda name: name != host)
    error = inside.unresolved_host({"hosts": ["algo-1", "algo-2"], "current_host": "algo-1"})
    assert error.startswith(f"the host {host} does not resolve after {limit} s: start its container with")
    assert f"waiting up to {limit} s until the host {host} resolves\n" in capsys.readouterr().err or not limit


def test_hosts_that_resolve_are_not_reported(
    inside: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = iter([False, True, True])  # the first one does later
    monkeypatch.setattr(inside, "_resolves", lambda _: next(names))
    resources = {"hosts": ["algo-1", "algo-2"], "current_host": "algo-1"}
    assert inside.unresolved_host(resources) is None
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr(inside, "_resolves", lambda _: False)
    monkeypatch.setenv("SM_STUDIO_LOCAL_MODE", "true")
    assert inside.unresolved_host(resources) is None


def test_tensorflow_gets_the_addresses_of_all_hosts(
    inside: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For MultiWorkerMirroredStrategy, as in AWS's images; only if it is enabled, and the user set none."""
    resources = {"hosts": ["algo-2", "algo-1"], "current_host": "algo-2", "network_interface_name": "eth0"}
    monkeypatch.setattr(inside.os, "environ", {})
    inside.set_tensorflow_cluster({}, resources)
    assert inside.os.environ == {}
    inside.set_tensorflow_cluster({MIRRORED: "true"}, resources)
    assert json.loads(inside.os.environ["TF_CONFIG"]) == {
        "cluster": {"worker": ["algo-1:8890", "algo-2:8890"]},
        "environment": "cloud",
        "task": {"index": 1, "type": "worker"},
    }
    monkeypatch.setattr(inside.os, "environ", {"TF_CONFIG": "{}"})
    inside.set_tensorflow_cluster({MIRRORED: "true"}, resources)
    assert inside.os.environ["TF_CONFIG"] == "{}"


def test_tensorflow_hosts_with_one_loopback_interface_have_ports_of_their_own(
    inside: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `hfdlc train --hosts 2` on the private engine."""
    monkeypatch.setattr(inside.os, "environ", {})
    resources = {"hosts": ["algo-1", "algo-2"], "current_host": "algo-1", "network_interface_name": "lo"}
    inside.set_tensorflow_cluster({MIRRORED: "true"}, resources)
    workers = json.loads(inside.os.environ["TF_CONFIG"])["cluster"]["worker"]
    assert workers == ["algo-1:8890", "algo-2:8891"]


def test_secrets_are_masked_in_log_lines(inside: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """sagemaker-training prints hyperparameters and the command; pip's index may have a password."""
    monkeypatch.setattr(inside.os, "environ", {"HF_TOKEN": "hf_variable", "WANDB_API_KEY": "wandb-key"})
    mask = inside.Mask({"hub_token": '"hf_parameter"', "password": 'a"quoted"b', "max_tokens": "256"})
    record = logging.LogRecord("", 0, "", 0, "%s", ("hf_variable hf_parameter --max_tokens 256",), None)
    assert mask.filter(record)
    assert record.getMessage() == "*** *** --max_tokens 256"
    assert mask.text(json.dumps({"password": 'a"quoted"b'})) == '{"password": "***"}'
    assert mask.text("wandb-key -i https://aws:eyJ@host/simple/") == "*** -i https://aws:***@host/simple/"


def test_unwritable_failure_file_is_reported(
    inside: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk may be full of the model: the log has the reason then, and no traceback of ours."""
    (tmp_path / "output").write_text("no folder")
    monkeypatch.setattr(inside, "FAILURE", str(tmp_path / "output" / "failure"))
    inside.fail("ValueError: no")
    assert "the reason of the failure:\nValueError: no" in capsys.readouterr().err


def hyperparameters(job: Job) -> dict[str, str]:
    """What hyperparameters.json has for a job."""
    content = job.files()["/opt/ml/input/config/hyperparameters.json"]
    assert isinstance(content, bytes)
    given: dict[str, str] = json.loads(content)
    return given


def test_a_job_is_written_as_sagemaker_writes_it() -> None:
    """Values of hyperparameters are strings of JSON; the script and its code are named among them."""
    job = Job("a.py", {"a.py": b"1"}, {"epochs": "3"}, ("train", "test"))
    files = job.files()
    given = {"sagemaker_program": "a.py", "sagemaker_submit_directory": CODE, "epochs": '"3"'}
    assert hyperparameters(job) == given
    channels = files["/opt/ml/input/config/inputdataconfig.json"]
    assert isinstance(channels, bytes)
    assert list(json.loads(channels)) == ["train", "test"]
    assert files[f"{CODE}/a.py"] == b"1"


@pytest.mark.parametrize("text", ["1.10", "true", '["a", "b"]', "1e5", "null", "", "ü", '"quoted"'])
def test_a_script_gets_a_hyperparameter_as_it_was_typed(text: str) -> None:
    """sagemaker-training decodes each value as JSON: `1.1`, `True`, `['a', 'b']`, `100000.0`."""
    assert json.loads(hyperparameters(Job("a.py", {}, {"value": text}))["value"]) == text


def test_settings_of_sagemaker_training_are_json_already() -> None:
    """As the SageMaker SDK writes them: a log level is a number, a switch is true or false."""
    job = Job("a.py", {}, {"sagemaker_container_log_level": "10"})
    assert json.loads(hyperparameters(job)["sagemaker_container_log_level"]) == 10


def test_a_log_is_read_in_whole_lines_and_states_of_a_bar() -> None:
    """Pieces may end anywhere, in the middle of a letter too."""
    pieces = [b"one\ntw", b"o \xc3", b"\xa9\n 1/4 [=\r 2/4 [==\r", b"end"]
    assert list(progress.lines(pieces)) == ["one\n", "two é\n", " 1/4 [=\r", " 2/4 [==\r", "end\n"]


def test_an_archive_is_unpacked_for_as_long_as_it_is_used(tmp_path: Path) -> None:
    """Its folder holds config.json, and is gone afterwards."""
    (tmp_path / "config.json").write_text("{}")
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "config.json", "config.json")
    with models.folder(tmp_path / "model.tar.gz", State(tmp_path / "state")) as folder:
        assert (folder / "config.json").is_file()
    assert not folder.exists()


def test_folder_around_the_model_is_an_error(tmp_path: Path) -> None:
    """And which one to name."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    with (
        pytest.raises(UserError, match=r"one level too deep(.|\n)*hint: use .*/model"),
        models.folder(tmp_path, State(tmp_path / "state")),
    ):
        pass


def test_adapter_with_its_base_inside_is_a_model(tmp_path: Path) -> None:
    """The folder of its base is not taken for a model that is one level too deep."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").touch()
    (tmp_path / "adapter_config.json").touch()
    with models.folder(tmp_path, State(tmp_path / "state")) as folder:
        assert folder == tmp_path


@pytest.mark.parametrize(
    ("output", "checkpoints", "message"),
    [
        ("model.zip", None, "model.zip: not the name of an archive"),
        ("folder.tar.gz", None, "folder.tar.gz: is a folder"),
        ("file/model.tar.gz", None, "file: is not a folder, and cannot be made one"),
        ("model.tar.gz", "file", "file: is not a folder, and cannot be made one"),
        ("model.tar.gz", "file/kept", "file/kept: is not a folder, and cannot be made one"),
    ],
)
def test_results_that_cannot_be_written_are_an_error_before_the_job(
    repository: Project, tmp_path: Path, output: str, checkpoints: str | None, message: str
) -> None:
    """Not hours later, when the container with the model is removed."""
    (tmp_path / "file").touch()
    (tmp_path / "folder.tar.gz").mkdir()
    kept = tmp_path / checkpoints if checkpoints else None
    order = Order(Source(tmp_path, PurePosixPath("train.py")), (), tmp_path / output, checkpoints=kept)
    cell = next(cell for cell in repository.cells if cell.type == "training")
    with pytest.raises(UserError, match=message):
        training._check(cell, order)


def test_a_training_cell_stands_for_the_inference_cell_of_its_release(repository: Project) -> None:
    """On the same device; where a release has none, it serves itself."""
    cells = {cell.id: cell for cell in repository.cells}
    trained = cells["huggingface-pytorch-training:2.13.0-transformers5.23.0-gpu-py311-cu130-debian12"]
    assert matching(trained, repository.cells).id == trained.id.replace("training", "inference")
    alone = cells["huggingface-tensorflow-training:2.4.1-transformers4.5.0-gpu-py37-cu110-ubuntu18.04"]
    assert matching(alone, repository.cells) is alone


def test_log_of_an_ended_script_is_complete(inside: ModuleType) -> None:
    """Its last output may still be in the pipe when the reason is read."""
    stderr = inside.Stderr()
    stderr.start()
    try:
        late = [n for n in range(200) if not os.write(2, b"word\n") or stderr.text().count("word") != n + 1]
    finally:
        stderr.end()
    assert late == []
