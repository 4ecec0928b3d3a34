"""Training on several hosts, which are containers of one machine."""

import json
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from hfdlc.build.session import Session
from hfdlc.engine.detect import Engine
from training_jobs import PYTORCH, TENSORFLOW, Script, build_both, hfdlc, letter, script_of

pytestmark = pytest.mark.engine

# A linear model with DistributedDataParallel, as torchrun starts it. Each rank notes what it has seen.
TRAIN = """
import json, os, time, torch
from torch import distributed, nn
distributed.init_process_group("gloo")
rank, size = distributed.get_rank(), distributed.get_world_size()
torch.manual_seed(1)
inputs, model = torch.randn(64, 8), nn.Linear(8, 1)
targets = inputs.sum(dim=1, keepdim=True)
model = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
losses, seen = [], []
for step in range(8):
    batch = torch.arange(step * 8, step * 8 + 8)[rank::size]
    loss = nn.functional.mse_loss(model(inputs[batch]), targets[batch])
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    mean = loss.detach().clone(); distributed.all_reduce(mean)
    losses.append(mean.item() / size); seen += batch.tolist()
everywhere = [None] * size
distributed.all_gather_object(everywhere, (os.environ["SM_CURRENT_HOST"], seen))
if rank == 0:
    with open(os.environ["SM_MODEL_DIR"] + "/found.json", "w") as file:
        json.dump({"losses": losses, "seen": everywhere, "hosts": os.environ["SM_HOSTS"]}, file)
open(os.environ["SM_OUTPUT_DATA_DIR"] + "/rank%d" % rank, "w").write("x")
distributed.barrier(); time.sleep(0.1)  # gloo's threads release tensors, or the end of a process aborts
"""
# A small Llama with transformers' Trainer, which is connected by accelerate, and then with PyTorch's FSDP.
LIBRARIES = """
import json, os, time, torch
from torch import distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed
size, folder = int(os.environ["WORLD_SIZE"]), os.environ["SM_MODEL_DIR"]
def llama():
    set_seed(1)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    ))
rows = [{"input_ids": torch.arange(8) + i % 16, "labels": torch.arange(8) + i % 16} for i in range(64)]
arguments = TrainingArguments(
    "/tmp/trainer", max_steps=8, per_device_train_batch_size=8 // size, learning_rate=0.01, logging_steps=1,
    report_to="none", save_strategy="no",
)
trainer = Trainer(llama(), arguments, train_dataset=rows)
trainer.train()
trainer.save_model(folder + "/trainer")
found = {"processes": arguments.world_size}
found["trainer"] = [line["loss"] for line in trainer.state.log_history if "loss" in line]
if not distributed.is_initialized():
    distributed.init_process_group("gloo")
model, mesh = llama(), init_device_mesh("cpu", (size,))
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer, found["fsdp"] = torch.optim.AdamW(model.parameters(), lr=0.01), []
for step in range(8):
    batch = rows[step * 8 : step * 8 + 8][arguments.process_index::size]
    ids = torch.stack([row["input_ids"] for row in batch])
    loss = model(ids, labels=ids).loss
    loss.backward(); optimizer.step(); optimizer.zero_grad()
    mean = loss.detach().clone(); distributed.all_reduce(mean)
    found["fsdp"].append(mean.item() / size)
whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
if arguments.process_index == 0:
    llama().save_pretrained(folder + "/fsdp", state_dict=whole)
    with open(folder + "/found.json", "w") as file:
        json.dump(found, file)
distributed.barrier(); time.sleep(0.1)  # gloo's threads release tensors
"""
# AWS's example: the rank comes from SM_HOSTS, and the script starts no other process.
ONE_OF_TWO_FAILS = """
import os, sys, time
from torch import distributed
hosts = __import__("json").loads(os.environ["SM_HOSTS"])
distributed.init_process_group(
    "gloo", rank=hosts.index(os.environ["SM_CURRENT_HOST"]), world_size=len(hosts)
)
if distributed.get_rank() == 1:
    raise ValueError("no such label")
time.sleep(600)
"""


def found(script: Script, folder: Path, text: str, *words: object) -> dict[str, Any]:
    """What the training script left in the model of a job."""
    ended = hfdlc(*script(text, *words))
    assert ended.returncode == 0, ended.stderr
    return in_model(folder)


def in_model(folder: Path) -> dict[str, Any]:
    """What a training script wrote to the model."""
    with tarfile.open(folder / "out" / "model.tar.gz") as archive:
        file = archive.extractfile("found.json")
        assert file
        content: dict[str, Any] = json.load(file)
    return content


def test_two_hosts_train_as_one_does(script: Script, tmp_path: Path) -> None:
    """At the same global batch size: the same losses, and each sample is seen once."""
    one = found(script, tmp_path, TRAIN, "--processes", "1")
    two = found(script, tmp_path, TRAIN, "--hosts", "2", "--processes", "2")
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-3)
    assert [host for host, _ in two["seen"]] == ["algo-1", "algo-1", "algo-2", "algo-2"]
    assert sorted(n for _, seen in two["seen"] for n in seen) == list(range(64))
    assert two["hosts"] == '["algo-1","algo-2"]'
    with tarfile.open(tmp_path / "out" / "output.tar.gz") as archive:  # of the first host
        assert sorted(archive.getnames()) == ["rank0", "rank1"]


@pytest.mark.releases
def test_trainer_and_fsdp_train_on_two_hosts_as_on_one(script: Script, tmp_path: Path) -> None:
    """On CPUs, at the same global batch size: the same losses, and whole models are saved."""
    one = found(script, tmp_path, LIBRARIES, "--processes", "1")
    two = found(script, tmp_path, LIBRARIES, "--hosts", "2", "--processes", "2")
    assert (one["processes"], two["processes"]) == (1, 4)
    assert two["trainer"] == pytest.approx(one["trainer"], abs=1e-3)
    assert two["fsdp"] == pytest.approx(one["fsdp"], abs=1e-3)
    assert two["fsdp"][-1] < two["fsdp"][0]
    with tarfile.open(tmp_path / "out" / "model.tar.gz") as archive:
        assert {"trainer/model.safetensors", "fsdp/model.safetensors"} <= set(archive.getnames())


def test_host_that_fails_stops_the_others_and_is_named(script: Script, used_engine: Engine) -> None:
    """With its own reason, long before the others would have ended; nothing is left in the engine."""
    client = used_engine.client
    before = {each.id for each in [*client.containers.list(all=True), *client.networks.list()]}
    began = time.monotonic()
    report = letter(hfdlc(*script(ONE_OF_TWO_FAILS, "--hosts", "2")), 1)
    assert time.monotonic() - began < 120
    assert "training failed on algo-2 with exit code 1" in report
    assert "ValueError: no such label" in report
    assert {each.id for each in [*client.containers.list(all=True), *client.networks.list()]} == before


# A linear model with MultiWorkerMirroredStrategy: each batch of 8 is divided among the hosts.
MIRRORED = """
import json, os
import tensorflow as tf
import tf_keras as keras
strategy = tf.distribute.MultiWorkerMirroredStrategy()
tf.random.set_seed(1)
inputs = tf.random.stateless_normal((64, 8), (1, 2))
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
rows = tf.data.Dataset.from_tensor_slices((inputs, tf.reduce_sum(inputs, axis=1, keepdims=True)))
with strategy.scope():
    model = keras.Sequential([keras.layers.Dense(1, kernel_initializer="zeros", input_shape=(8,))])
    model.compile(keras.optimizers.SGD(0.05), "mse")
fitted = model.fit(rows.batch(8).with_options(options), epochs=6, verbose=2)
found = {"losses": fitted.history["loss"], "workers": strategy.num_replicas_in_sync}
if os.environ["SM_CURRENT_HOST"] == "algo-1":
    with open(os.environ["SM_MODEL_DIR"] + "/found.json", "w") as file:
        json.dump(found, file)
"""
TF_CONFIG = ("-p", "sagemaker_multi_worker_mirrored_strategy_enabled=true")


@pytest.mark.releases
def test_tensorflow_trains_on_two_hosts_as_on_one(session: Session, tmp_path: Path) -> None:
    """At the same global batch size, with the TF_CONFIG of SageMaker's `multi_worker_mirrored_strategy`."""
    build_both(session, TENSORFLOW)
    script = script_of(TENSORFLOW, tmp_path)
    one = found(script, tmp_path, MIRRORED)
    two = found(script, tmp_path, MIRRORED, "--hosts", "2", *TF_CONFIG)
    assert (one["workers"], two["workers"]) == (1, 2)
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-3)
    assert two["losses"][-1] < two["losses"][0]


# `accelerate launch` of each host starts two processes.
LAUNCH = """#!/bin/sh
set -eu
accelerate launch --multi_gpu --num_machines 2 --num_processes 4 \\
    --machine_rank $((${SM_CURRENT_HOST#algo-} - 1)) \\
    --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" train.py
"""


@pytest.mark.releases
def test_accelerate_launch_starts_the_processes_of_two_hosts(script: Script, tmp_path: Path) -> None:
    """The losses are those of torchrun with as many processes, and the job ends."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "train.py").write_text(TRAIN)
    (tmp_path / "launch" / "launch.sh").write_text(LAUNCH)
    by_torchrun = found(script, tmp_path, TRAIN, "--hosts", "2", "--processes", "2")
    ended = hfdlc(
        "train", PYTORCH, "--source-dir", tmp_path / "launch", "--entry-point", "launch.sh", "--hosts", "2",
        "--output", tmp_path / "out" / "model.tar.gz",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert in_model(tmp_path) == by_torchrun


# Python imports it before `train`, which then does not start on algo-2: it resolves, and never joins.
NEVER_JOINS = """
import json, os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
with open("/opt/ml/input/config/resourceconfig.json") as file:
    if json.load(file)["current_host"] == "algo-2":
        time.sleep(600)
"""


def test_host_that_never_joins_is_named(script: Script, tmp_path: Path) -> None:
    """After a time limit, as the reason in the failure file of the first host."""
    (tmp_path / "sitecustomize.py").write_text(NEVER_JOINS)
    began = time.monotonic()
    variables = ("-e", "PYTHONPATH=/opt/ml/input/code", "-e", "HFDLC_JOIN_TIMEOUT=2")
    report = letter(hfdlc(*script("", "--hosts", "2", *variables)), 1)
    assert "training failed on algo-1 with exit code 1\nthe host algo-2 has not joined after 2 s" in report
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("option", ["--hosts", "--processes"])
def test_no_hosts_are_refused(script: Script, option: str) -> None:
    """Before anything starts."""
    ended = hfdlc(*script("", option, "0"))
    assert ended.returncode == 2
    assert option in ended.stderr
