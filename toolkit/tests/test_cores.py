"""How many cores, and in which precision."""

import os

import pytest

from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.runtimes import select, threads
from hf_inference_toolkit.settings import Settings, read
from hf_inference_toolkit.tasks.service import predict_alone

MINE = len(os.sched_getaffinity(0))
V1 = "sys/fs/cgroup/cpu/cpu.cfs_{}_us"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, MINE),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, MINE),
        ({"sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ({"sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
        ({"sys/fs/cgroup/cpu.max": "9900000 100000\n"}, MINE),
        ({V1.format("quota"): "-1\n", V1.format("period"): "100000\n"}, MINE),
        ({V1.format("quota"): "50000\n", V1.format("period"): "100000\n"}, 1),
    ],
)
def test_cores_are_those_of_the_control_group(tmp_path, files, expected):
    """Of v1 and of v2; a part of a core is one, and never more than the process may run on."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.available(tmp_path) == expected


def test_threads_are_as_many_as_cores_unless_the_user_says():
    """Nothing that is set is changed."""
    environ = {"OMP_NUM_THREADS": "7"}
    threads.limit_threads(environ)
    assert environ == {"OMP_NUM_THREADS": "7", "RAYON_NUM_THREADS": str(threads.available())}


def test_passes_that_run_at_the_same_time_divide_the_cores(monkeypatch):
    """On multi-model endpoints."""
    for cores, passes, each in ((1, 2, 1), (2, 2, 1), (4, 2, 2), (16, 8, 2), (64, 8, 8)):
        monkeypatch.setattr(threads, "available", lambda cores=cores: cores)
        environ = {}
        threads.limit_threads(environ, threads.shared())
        assert threads.shared() == passes
        assert environ == {"OMP_NUM_THREADS": str(each), "RAYON_NUM_THREADS": str(each)}


@pytest.mark.parametrize(("flags", "expected"), [("fpu avx512_bf16", True), ("fpu avx512f", False)])
def test_bfloat16_is_native_where_the_processor_says_so(tmp_path, flags, expected):
    """By its flags."""
    (tmp_path / "cpuinfo").write_text("flags\t\t: {}\n".format(flags))
    assert threads.has_bfloat16(tmp_path / "cpuinfo") is expected
    assert threads.has_bfloat16(tmp_path / "missing") is False


def test_precision_out_of_range_is_refused_at_start():
    """With what is allowed."""
    with pytest.raises(
        StartError, match=r"HF_DTYPE: must be float32, bfloat16, float16, int8, auto, not 'int4'"
    ):
        read({"HF_DTYPE": "int4"})


def scores(folder, dtype):
    """A classifier's scores in a precision, and the precision that it says it has."""
    service = load_model(Settings(model_dir=str(folder), dtype=dtype))
    answer = predict_alone(service, Request("I like you", {"top_k": None}, []), lambda: None).value
    return {label["label"]: label["score"] for label in answer}, service.facts["dtype"]


def can_bfloat16():
    """Whether the processor has it and the installed PyTorch computes in it."""
    try:
        select.create_runtime("pt", "bfloat16")
    except StartError:
        return False
    return threads.has_bfloat16()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "auto"])
def test_other_precisions_answer_nearly_the_same(model_folder, dtype):
    """Near float32, and not float32; what the installed framework cannot do is refused by name."""
    folder = model_folder("text-classification")
    exact, said = scores(folder, "float32")
    assert said == "float32"
    try:
        near, said = scores(folder, dtype)
    except StartError as refused:
        assert "HF_DTYPE={}".format(dtype) in str(refused)
        assert dtype != "auto"
        pytest.skip("{} is refused by name here; its answers cannot be compared".format(dtype))
    if select.installed_framework() == "tf" or (dtype == "auto" and not can_bfloat16()):
        assert (near, said) == (exact, "float32")
    else:
        assert said == ("bfloat16" if dtype == "auto" else dtype)
        assert near != exact
        assert all(abs(near[label] - exact[label]) < 0.02 for label in exact)
