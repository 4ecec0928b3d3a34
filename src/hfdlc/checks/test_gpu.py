"""Checks of images with CUDA. Without a GPU, those that need one are reported as not run."""

import json
import re
from collections import defaultdict

import pytest

from hfdlc.checks.subject import Subject, invoke, wait_until_ready
from hfdlc.checks.test_inference import model  # noqa: F401 - a fixture

# The architectures that a framework has code for, and code that makes it open every library that it may need.
ARCHITECTURES = {
    "pytorch": "import torch; print(torch._C._cuda_getArchFlags())",
    "tensorflow": """
from tensorflow.python.platform.build_info import build_info
print(*build_info["cuda_compute_capabilities"])
""",
}
OPEN = {
    "pytorch": """
import ctypes, os, torch
linalg = os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cuda_linalg.so")
if os.path.exists(linalg):
    ctypes.CDLL(linalg)
""",
    # What TensorFlow does before it registers a GPU; the namespace depends on the release.
    "tensorflow": """
import ctypes, tensorflow
paths = {line.split()[-1] for line in open("/proc/self/maps") if "libtensorflow_framework" in line}
library = ctypes.CDLL(paths.pop())
for space in ("3tsl", "15stream_executor"):
    name = "_ZN%s8internal9DsoLoader22TryDlopenCUDALibrariesEv" % space
    if hasattr(library, name):
        getattr(library, name)(ctypes.byref(ctypes.c_void_p()))
        break
else:
    raise SystemExit("TensorFlow has no DsoLoader::TryDlopenCUDALibraries where it was in 2.4 and 2.21")
""",
}
NCCL = "import torch, torch.distributed as d; print(d.is_nccl_available(), torch.cuda.nccl.version())"
CUDA = re.compile(r"lib(cu|nv|nccl)\w*")
# Libraries of the driver, which the machine with the GPU provides.
DRIVER = re.compile(r"lib(cuda|nvidia-[\w-]+|nvcuvid)\.so")
# Triton's profiler has its own copy of CUPTI, which nothing else loads.
PRIVATE = "/triton/backends/nvidia/"
PRODUCT = {
    "pytorch": """
import torch
a = torch.arange(9.).reshape(3, 3).to("cuda")
print((a @ torch.eye(3, device="cuda") == a).all().item(), a.device.type)
""",
    "tensorflow": """
import tensorflow as tf
with tf.device("/GPU:0"):
    a = tf.reshape(tf.range(9.0), (3, 3))
    product = a @ tf.eye(3)
print(bool(tf.reduce_all(product == a)), "cuda" if "GPU" in product.device else "cpu")
""",
}
SEEN = {
    "pytorch": "import torch; print(torch.cuda.device_count())",
    "tensorflow": "import tensorflow; print(len(tensorflow.config.list_physical_devices('GPU')))",
}


def test_architectures(subject: Subject) -> None:
    """The framework has code for the GPU architectures that the matrix declares, and for no others."""
    found = subject.python(ARCHITECTURES[subject.cell.framework]).split()
    assert sorted(found) == sorted(subject.cell.source.architectures)


def test_cuda_libraries_are_there(subject: Subject) -> None:
    """The linker finds every library of CUDA that the framework opens."""
    found = subject.loads(OPEN[subject.cell.framework])
    wanted = {name for name in found if CUDA.match(name) and not DRIVER.match(name)}
    assert wanted, "the framework opens no library of CUDA"
    missing = sorted(name for name in wanted if not found[name])
    assert not missing, f"not found: {', '.join(missing)}"


def test_nccl_answers(subject: Subject) -> None:
    """PyTorch opens NCCL, which connects processes on GPUs."""
    if subject.cell.framework != "pytorch":
        pytest.skip("TensorFlow opens NCCL only when it is used")
    assert subject.python(NCCL).startswith("True")


def test_one_cuda(subject: Subject) -> None:
    """No CUDA library exists twice, in any version."""
    found = subject.host.check_output("find / -xdev -type f -name 'lib*.so*' -size +0")
    files = defaultdict(list)
    for path in found.split():
        name = path.rpartition("/")[2].partition(".so")[0]
        if CUDA.fullmatch(name) and PRIVATE not in path:
            files[name].append(path)
    twice = [f"{name}: {', '.join(sorted(paths))}" for name, paths in files.items() if len(paths) > 1]
    assert not twice, "\n".join(twice)


def test_driver(subject: Subject) -> None:
    """A label has the oldest driver that works."""
    assert subject.cell.driver
    assert (subject.config["Labels"] or {}).get("io.hfdlc.cuda.driver") == subject.cell.driver


@pytest.fixture
def gpu(subject: Subject) -> None:
    """Skips checks on machines without a GPU."""
    if not subject.gpus:
        pytest.skip("needs a GPU: hfdlc test --gpus")


@pytest.mark.usefixtures("gpu")
def test_the_gpu_is_seen(subject: Subject) -> None:
    """The framework sees a GPU."""
    assert int(subject.python(SEEN[subject.cell.framework])) >= 1


@pytest.mark.usefixtures("gpu")
def test_a_product_on_the_gpu_is_right(subject: Subject) -> None:
    """The GPU multiplies matrices correctly."""
    assert subject.python(PRODUCT[subject.cell.framework]).split() == ["True", "cuda"]


@pytest.mark.usefixtures("gpu")
def test_a_request_is_served_from_the_gpu(subject: Subject, model: str) -> None:  # noqa: F811
    """The toolkit loads the model onto the GPU."""
    with subject.serving("text-classification", model) as container:
        wait_until_ready(container)
        status, answer = invoke(container, {"inputs": "a container works"})
        lines = container.logs().decode().splitlines()
    assert status == 200, answer
    ready = [json.loads(line) for line in lines if '"ready"' in line]
    assert [line.get("device") for line in ready] == ["gpu"]
