"""Checks of training images: SageMaker's training contract."""

import json
from typing import Any

import pytest

from hfdlc.checks import training
from hfdlc.checks.subject import Subject, invoke, wait_until_ready
from hfdlc.checks.test_inference import BERT, TOKENIZER
from hfdlc.checks.training import Job

PACKAGES = ("transformers", "datasets", "sklearn", "sentencepiece")
REPORT = """
import json, os, sys
found = {"arguments": sys.argv[1:], "settings": {k: v for k, v in os.environ.items() if k.startswith("SM_")}}
with open(os.path.join(os.environ["SM_CHANNEL_TRAINING"], "text.csv")) as file:
    found["data"] = file.read()
with open(os.path.join(os.environ["SM_MODEL_DIR"], "found.json"), "w") as file:
    json.dump(found, file)
with open(os.path.join(os.environ["SM_OUTPUT_DATA_DIR"], "metrics.txt"), "w") as file:
    file.write("accuracy 1.0")
"""
FAIL = """
def read():
    raise ValueError("the labels are wrong")
read()
"""
WAIT = """
import signal, sys, time
def keep(*_):
    with open("/opt/ml/checkpoints/last", "w") as file:
        file.write("step 7")
    sys.exit(0)
signal.signal(signal.SIGTERM, keep)
print("waiting", flush=True)
time.sleep(600)
"""
DISTRIBUTED = """
import os
import torch.distributed
torch.distributed.init_process_group("gloo")
rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
with open(os.path.join(os.environ["SM_MODEL_DIR"], "rank%d" % rank), "w") as file:
    file.write("%d of %d" % (rank, size))
"""


def test_what_scripts_import_is_there(subject: Subject) -> None:
    """The packages that training scripts import are installed."""
    names = [*PACKAGES, *(name for name in ("accelerate", "evaluate") if name in subject.locked)]
    subject.python(f"import {', '.join(names)}")


def test_a_script_is_trained_with(subject: Subject) -> None:
    """It gets hyperparameters, SM_* and its channel; its model is kept; the exit code is 0."""
    typed = {"epochs": "2", "learning-rate": "1e-1", "revision": "1.10", "words": '["a", "b"]'}
    job = Job(REPORT, hyperparameters=typed, data={"text.csv": "a,1\n"})
    with training.run(subject, job) as ended:
        assert ended.code == 0, ended.log
        found: dict[str, Any] = json.loads(ended.read("/opt/ml/model/found.json") or "{}")
        assert ended.read("/opt/ml/output/data/metrics.txt") == "accuracy 1.0"
        assert ended.read("/opt/ml/output/failure") is None
    assert found["arguments"] == [word for name, text in typed.items() for word in (f"--{name}", text)]
    assert found["data"] == "a,1\n"
    settings = found["settings"]
    assert json.loads(settings["SM_CHANNELS"]) == ["training"]
    assert json.loads(settings["SM_HPS"]) == typed
    assert settings["SM_CURRENT_HOST"] == training.HOST
    assert settings["SM_HP_EPOCHS"] == "2"
    assert int(settings["SM_NUM_CPUS"]) >= 1


def test_a_failure_has_the_scripts_own_reason(subject: Subject) -> None:
    """The exit code is 1, and the failure file has only the script's traceback."""
    with training.run(subject, Job(FAIL)) as ended:
        assert ended.code == 1, ended.log
        reason = ended.read("/opt/ml/output/failure") or ""
    assert reason.startswith("Traceback (most recent call last):"), reason
    assert reason.endswith("ValueError: the labels are wrong"), reason
    assert "sagemaker" not in reason, reason


WRONG = {
    "hyperparameters": (
        Job(REPORT, files={"hyperparameters.json": "{epochs: 2"}),
        "hyperparameters.json is not JSON",
    ),
    "channel": (Job(REPORT, channel=False), "the channel 'training' of inputdataconfig.json has no folder"),
    "script": (Job(REPORT, hyperparameters={"sagemaker_program": "other.py"}), "other.py"),
    "host": (  # one that resolves, and never joins
        Job(
            REPORT,
            files={"resourceconfig.json": '{"hosts": ["algo-1", "localhost"], "current_host": "algo-1"}'},
            environment={"HFDLC_JOIN_TIMEOUT": "1"},
        ),
        "the host localhost has not joined after 1 s",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_is_reported(subject: Subject, what: str) -> None:
    """The exit code is 1, and the failure file has the error in one line."""
    job, word = WRONG[what]
    with training.run(subject, job) as ended:
        assert ended.code == 1, ended.log
        reason = ended.read("/opt/ml/output/failure") or ""
    assert word in reason
    assert len(reason.splitlines()) == 1, reason


def test_a_script_gets_sigterm(subject: Subject) -> None:
    """It can write a checkpoint in the 120 seconds that SageMaker allows."""
    with training.started(subject, Job(WAIT)) as running:
        running.until("waiting")
        running.container.kill("SIGTERM")
        ended = running.end(timeout=120)
        assert ended.code == 0, ended.log
        assert ended.read("/opt/ml/checkpoints/last") == "step 7"


def test_torch_distributed_starts_torchrun(subject: Subject) -> None:
    """Two connected processes; without torchrun in the image, the job ends with an error."""
    settings = {
        "sagemaker_torch_distributed_enabled": "true",
        "sagemaker_mpi_num_of_processes_per_host": "2",
    }
    with training.run(subject, Job(DISTRIBUTED, hyperparameters=settings)) as ended:
        if subject.host.exists("torchrun"):
            assert ended.code == 0, ended.log
            assert ended.read("/opt/ml/model/rank1") == "1 of 2"
            return
        reason = ended.read("/opt/ml/output/failure") or ""
    instead = "; use multi_worker_mirrored_strategy" if subject.cell.framework == "tensorflow" else ""
    assert reason == f"the distribution torch_distributed needs torchrun, not in this image{instead}"


def test_what_was_trained_is_served(subject: Subject) -> None:
    """`serve` of the training image serves the model that its `train` wrote."""
    made = f"import os\nfolder = os.environ['SM_MODEL_DIR']\n{TOKENIZER}{BERT[subject.cell.framework]}"
    with (
        training.model(subject, Job(made)) as volume,
        subject.serving("text-classification", volume) as container,
    ):
        wait_until_ready(container)
        status, answer = invoke(container, {"inputs": "a container works"})
    assert status == 200, answer
    assert answer[0]["label"] in ("NEGATIVE", "POSITIVE"), answer
