"""No single request of at most 25 MB ends the process, or takes more than 2 GB of memory."""

import base64
import contextlib
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
import tiny
import tiny_pipelines
from serving import Running
from test_body_limits import HEADER, bomb, npy

pytest.importorskip("transformers", minversion="4.46")
pytest.importorskip("PIL")
if tiny.FRAMEWORK != "pt" or not Path("/proc/self/status").is_file():
    pytest.skip("shown on PyTorch and Linux", allow_module_level=True)

MOST = 25 * 1024 * 1024
GIGABYTES = 2 * 1024**3
# Address space: what PyTorch reserves and does not use counts here, so it is more than the memory that is allowed.
ADDRESS_SPACE = 12 * 1024**3


@contextlib.contextmanager
def limited(folder, task):
    """A server in a process with a limit of address space."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = dict(
        os.environ,
        PYTHONPATH=str(Path(__file__).parent.parent / "src"),
        HF_MODEL_DIR=str(folder),
        HF_TASK=task,
        HF_BIND_HOST="127.0.0.1",
        SAGEMAKER_BIND_TO_PORT=str(port),
        SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS="30",
    )
    start = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_AS, ({0}, {0})); "
        "runpy.run_module('hf_inference_toolkit.cli', run_name='__main__')".format(ADDRESS_SPACE)
    )
    with open(os.devnull, "w") as nothing:  # noqa: PTH123 - a device
        child = subprocess.Popen([sys.executable, "-c", start], env=names, stdout=nothing, stderr=nothing)
        try:
            server = Running(None, port)
            ends = time.monotonic() + 90
            while True:
                with contextlib.suppress(OSError):
                    if server.get("/ping").status == 200:
                        break
                assert child.poll() is None
                assert time.monotonic() < ends
                time.sleep(0.05)
            yield server, child
        finally:
            child.kill()
            child.wait()


def peak(child):
    """The most memory that the process has had, in bytes."""
    status = Path("/proc/{}/status".format(child.pid)).read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) * 1024


def body(inputs, **parameters):
    return "application/json", json.dumps({"inputs": inputs, "parameters": parameters}).encode()


def general():
    """Bodies that are hostile to every task."""
    return {
        "deep": ("application/json", b"[" * MOST),
        "deep objects": ("application/json", b'{"a":' * (MOST // 5)),
        "empty lists": ("application/json", b'{"inputs":[' + b"[]," * (MOST // 3 - 9) + b"[]]}"),
        "empty objects": ("application/json", b'{"inputs":[' + b"{}," * 1999999 + b"{}]}"),
        "numbers": ("application/json", b'{"inputs":[' + b"1.5," * (MOST // 4 - 9) + b"1]}"),
        "short strings": ("application/json", b'{"inputs":[' + b'"ab",' * (MOST // 5 - 9) + b'"a"]}'),
        "keys": ("application/json", json.dumps({str(n): n for n in range(1200000)}).encode()),
        "digits": ("application/json", b'{"inputs":' + b"9" * (MOST - 20) + b"}"),
        "control characters": ("application/json", b'{"inputs":"' + b"\x01" * (MOST - 20) + b'"}'),
        "csv cells": ("text/csv", b"," * MOST),
        "csv rows": ("text/csv", b"a,b\n" * (MOST // 4)),
        "lines": ("application/jsonlines", b"1\n" * (MOST // 2)),
        "npy shape": ("application/x-npy", npy(HEADER.format("<f8", "(10000000000,)"), b"x" * 1000)),
        "npy lists": ("application/x-npy", npy(HEADER.format("|u1", "(20000000, 1)"), b"x" * 20000000)),
        "npy numbers": ("application/x-npy", npy(HEADER.format("|u1", "(25000000,)"), b"x" * 25000000)),
        "text": body("i like you " * 2200000),
        "letters": body("a " * 12000000),
        "one word": body("a" * 24000000),
        "spaces": body(" " * 24000000),
        "emoji": ("application/json", '{{"inputs": "{}"}}'.format("\U0001f600" * 6000000).encode()),
        "whole text": body("i like you " * 2200000, truncation=False),
    }


def of_texts(task):
    """Bodies that are hostile to one task on text."""
    text = "i like you " * 2200000
    many = ["i like you " * 60] * 1024
    one = {
        "zero-shot-classification": {
            "labels": body("a", candidate_labels=["a" * 10 for _ in range(1000000)]),
            "labels in a string": body("a", candidate_labels="a," * 12000000),
            "text": body(text, candidate_labels=["a", "b"]),
            "texts and labels": body(many, candidate_labels=["a " * 49] * 1000),
        },
        "question-answering": {
            "context": body({"question": "who", "context": text}),
            "question": body({"question": text, "context": "i like you"}),
            "windows": body({"question": "who", "context": "a " * 400000}, max_seq_len=64, doc_stride=56),
            "allowed": body({"question": "who", "context": "a " * 400000}),
        },
        "table-question-answering": {
            "columns": body({"query": "a", "table": {str(number): ["1"] for number in range(1000000)}}),
            "rows": body({"query": "a", "table": {"a": ["1"] * 5000000}}),
            "cells": body({"query": "a", "table": {str(n): ["1"] * 10000 for n in range(500)}}),
        },
        "fill-mask": {"masks": body("[MASK] " * 3000000), "texts": body(["[MASK] " * 100] * 1024)},
        "text-generation": {
            "beams": body("i like you " * 1000, num_beams=64, max_new_tokens=60),
            "prompts": body(["i like you " * 1000] * 1024, max_new_tokens=100),
            "stops": body("a", stop_sequence=["a" * 128] * 190000),
            "ids": body("a", bad_words_ids=[[1, 2]] * 1000000),
        },
        "feature-extraction": {"texts": body(many)},
        "sentence-embeddings": {
            "texts": body(many),
            "short texts": body(["a"] * 5000000),
            "sentences": body({"source_sentence": text, "sentences": ["i like you " * 60] * 10000}),
            "ids": body([[5] * 6000000]),
            "lists of ids": body([[5]] * 3000000),
        },
        "text-ranking": {
            "query": body({"query": text, "texts": ["a"] * 10000}),
            "texts": body({"query": "a", "texts": ["i like you " * 60] * 10000}),
            "all": body({"query": "a", "texts": ["a"] * 5000000}),
        },
        "token-classification": {"texts": body(many, ignore_labels=["none"])},
    }
    return one.get(task, {})


def of_media(task):
    """Bodies that are hostile to one task on images or sound."""
    flat = tiny_pipelines.png(5000, 5000)
    encoded = base64.b64encode(flat).decode()
    sound = b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    sound += b"data\xff\xff\xff\xff" + b"\1\2" * 12000000
    out = io.BytesIO()
    numpy.save(out, numpy.zeros(3000000))
    if task in ("automatic-speech-recognition", "audio-classification"):
        return {
            "sound": ("audio/wav", sound),
            "header": ("audio/wav", sound[:2000]),
            "8 bit": ("audio/wav", tiny_pipelines.wav(seconds=250)),
            "sounds": body([base64.b64encode(tiny_pipelines.wav(seconds=1)).decode()] * 400),
        }
    more = {"candidate_labels": ["a " * 40] * 1000} if task.startswith("zero-shot") else {}
    return {
        "bomb": ("image/png", bomb(60000, 60000)),
        "size": ("image/png", bomb(5000, 5000)),
        "flat": body(encoded, **more),
        "many": body([encoded] * 100, **more),
        "labels": body(encoded[:100], candidate_labels=["a"] * 1000000),
    }


TEXT_TASKS = (
    "text-classification",
    "zero-shot-classification",
    "question-answering",
    "table-question-answering",
    "fill-mask",
    "text-generation",
    "feature-extraction",
    "sentence-embeddings",
    "text-ranking",
    "token-classification",
    "summarization",
)
MEDIA_TASKS = (
    "image-classification",
    "zero-shot-image-classification",
    "depth-estimation",
    "image-segmentation",
    "automatic-speech-recognition",
    "audio-classification",
)


def attack(server, child, requests):
    """Each request is answered, the process lives, and its memory stays below the limit."""
    for name, (kind, content) in requests.items():
        assert len(content) <= MOST, name
        reply = server.request("POST", "/invocations", content, {"Content-Type": kind}, timeout=120)
        assert reply.status in (200, 400, 413, 422, 504, 507), (name, reply.status, reply.body[:300])
        assert child.poll() is None, name
        assert peak(child) < GIGABYTES, (name, peak(child))
        assert server.get("/ping").status == 200, name


@pytest.mark.slow
@pytest.mark.parametrize("task", TEXT_TASKS)
def test_no_request_to_a_text_task_takes_all_memory(model_folder, task):
    """Bodies that are hostile to every task, and to this one."""
    if task == "table-question-answering":
        pytest.importorskip("pandas")
    with limited(model_folder(task), task) as (server, child):
        attack(server, child, dict(general(), **of_texts(task)))


@pytest.mark.slow
@pytest.mark.parametrize("task", MEDIA_TASKS)
def test_no_request_to_a_media_task_takes_all_memory(pipeline_folder, task):
    """Decompression bombs, headers that promise too much, many labels."""
    with limited(pipeline_folder(task), task) as (server, child):
        attack(server, child, of_media(task))
