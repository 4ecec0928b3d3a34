"""Each check fails on an image that is wrong in that one point, and says in what."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from docker.errors import ImageNotFound

from check_names import checks_in
from hfdlc.build import bake
from hfdlc.checks import facts, runner
from hfdlc.checks.report import CHECKS
from hfdlc.checks.subject import Machine, Subject
from hfdlc.engine import containers
from hfdlc.engine.images import image_of
from hfdlc.locks.indexes import IndexConfig
from hfdlc.matrix.selector import Filter, select
from hfdlc.process import run
from hfdlc.project import Project

pytestmark = pytest.mark.engine

GPU = "huggingface-pytorch-inference:2.13.0-*-py311-cu130-*"
TRAINING = "huggingface-pytorch-training:2.13.0-transformers5.23.0-cpu-py311-debian12"
GPU_TRAINING = "huggingface-pytorch-training:2.13.0-transformers5.23.0-gpu-py311-cu130-debian12"
TENSORFLOW = "huggingface-tensorflow-inference:2.21.0-*-cpu-py311-*"
SITE = "/opt/venv/lib/python3.11/site-packages"
# A certificate's form is all that counts here.
PEM = f"-----BEGIN CERTIFICATE-----\n{'TheMachine' * 6}Only\n-----END CERTIFICATE-----"
SOURCES = IndexConfig(index="https://reader:open-sesame@index.example/simple")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True)
class Wrong:
    """An image that is wrong in one point: the checks that find it, and a word of what they say."""

    checks: str
    change: str  # what is added to the right image: an instruction, or else a shell command
    word: str
    held: str | None = None  # against another cell than its own: a glob
    gpus: bool = False

    def dockerfile(self, image: str) -> str:
        """The right image, and the change."""
        if re.match("[A-Z]+ ", self.change):
            return f"FROM {image}\n{self.change}\n"
        commands = self.change.replace("{site}", SITE).split(" THEN ")
        lines = [f"RUN --network=none {json.dumps(['sh', '-c', command])}\n" for command in commands]
        return f"FROM {image}\n{''.join(lines)}"


WRONG = [
    Wrong("python", "echo 'import sys; sys.version_info = (3, 12, 0)' > {site}/spoiled.pth", "3.12"),
    Wrong(
        "framework packages_are_the_locked_ones",
        "sed -i 's/^Version:.*/Version: 2.9/' {site}/torch-*/METADATA",
        "2.9",
    ),
    Wrong("cuda", "sed -i \"s/^cuda.*/cuda = '13.0'/\" {site}/torch/version.py", "cu130"),
    Wrong(
        "transformers", "sed -i 's/^Version: .*/Version: 5.22.0/' {site}/transformers-*/METADATA", "5.22.0"
    ),
    Wrong("toolkit", "rm -r {site}/hf_inference_toolkit-*.dist-info", "None"),
    Wrong("os", "sed -i 's/^VERSION_ID=.*/VERSION_ID=13/' /etc/os-release", "debian13"),
    Wrong("no_conflicts", "sed -i 's/^Requires-Dist: filelock$/&>=99/' {site}/torch-*/METADATA", "filelock"),
    Wrong("no_conflicts", "rm {site}/pip/_internal/commands/check.py", "pip check ended with 1"),
    # It crashes behind a line that is no conflict.
    Wrong(
        "no_conflicts",
        "echo \"print('x requires None, which is not installed.'); raise OSError('broken')\""
        " > {site}/pip/__main__.py",
        "OSError: broken",
    ),
    Wrong(
        "packages_are_the_locked_ones", "cp -r {site}/idna-*.dist-info {site}/idna-1.0.dist-info", "idna: "
    ),
    Wrong(
        "packages_are_the_locked_ones",
        "printf 'Name: uv\nVersion: 1\n' > {site}/uv.egg-info",
        "uv: 1, locked: none",
    ),
    Wrong("packages_are_the_locked_ones", "rm -r {site}/regex-*.dist-info", "regex: not installed"),
    Wrong("entry_point", "rm /opt/venv/bin/serve", "serve"),
    Wrong("entry_point", 'ENTRYPOINT ["/bin/sh", "-c", "serve"]', "/bin/sh"),
    Wrong("entry_point", 'CMD ["train"]', "train"),
    Wrong("port", "EXPOSE 9090", "9090"),
    Wrong("working_folder", "WORKDIR /srv", "/srv"),
    Wrong("labels", "LABEL io.hfdlc.transformers=4.0.0", "4.0.0"),
    Wrong("labels", "LABEL io.hfdlc.base=", "io.hfdlc.base"),
    Wrong("health_check", "HEALTHCHECK NONE", "NONE"),
    Wrong("restricted_container", "chmod 700 /opt/venv/lib", "serve"),
    Wrong("user", "USER nobody", "nobody"),
    Wrong("no_build_tools", "touch /usr/bin/gcc && chmod +x /usr/bin/gcc", "gcc"),
    Wrong("no_headers", "mkdir -p /usr/include && touch /usr/include/stdio.h", "stdio.h"),
    Wrong("no_caches", "mkdir -p /root/.cache && echo kept > /root/.cache/wheel", "/root/.cache/wheel"),
    Wrong("text_is_utf8", "ENV PYTHONIOENCODING=latin-1", "iso8859-1"),
    Wrong("layers", " THEN ".join(f"touch /{number}" for number in range(20)), "layers, 24 allowed"),
    Wrong("what_is_left_out", "mkdir {site}/torch/include", "torch/include"),
    Wrong("what_is_left_out", "rm {site}/tqdm/std.py", "lists tqdm/std.py"),
    Wrong("byte_code", "rm {site}/tqdm/__pycache__/std.*", "tqdm/std.py has no byte code"),
    Wrong(
        "what_is_left_out",
        "python -m py_compile {site}/transformers/models/bert/modeling_bert.py",
        "transformers/models/bert/__pycache__",
    ),
    # A library of a header and a table of symbols.
    Wrong(
        "symbols",
        "python -c \"import struct; open('{site}/numpy/a.so', 'wb')"
        ".write(struct.pack('<4sBB10xHHIQQQIHHHHHH',"
        " b'\\x7fELF', 2, 1, 3, 62, 1, 0, 0, 64, 0, 64, 56, 0, 64, 1, 0)"
        " + struct.pack('<IIQQQQIIQQ', 0, 2, 0, 0, 128, 0, 0, 0, 0, 0))\"",
        "numpy/a.so",
    ),
    Wrong("one_torch", "echo > /usr/lib/libtorch_cpu.so", "libtorch_cpu"),
    Wrong("a_product_is_right", "echo 'raise ImportError(\"broken\")' > {site}/torch/__init__.py", "broken"),
    Wrong("no_cuda_libraries", "touch /usr/lib/libcudart.so.13", "libcudart.so.13"),
    Wrong(
        "grammar_compiles_a_schema",
        "echo 'raise ImportError(\"broken\")' > {site}/llguidance/__init__.py",
        "broken",
    ),
    Wrong(
        "adapter_is_trained_and_merged",
        "echo 'raise ImportError(\"broken\")' > {site}/peft/__init__.py",
        "broken",
    ),
    Wrong("openvino_has_the_cpu", "rm {site}/openvino/libs/libopenvino_intel_cpu_plugin.so", "CPU"),
    Wrong(
        "openvino_converts_a_module",
        "rm {site}/openvino/libs/libopenvino_pytorch_frontend.so.*",
        "pytorch",
    ),
    Wrong("no_openvino_telemetry", "mkdir {site}/openvino_telemetry", "openvino_telemetry"),
    Wrong("no_secrets_in_configuration", "LABEL from=https://index.example/simple", "index.example"),
    Wrong("no_secrets_in_configuration", "ENV HTTPS_PROXY=", "HTTPS_PROXY"),
    Wrong("no_secrets_in_layers", "echo https://index.example/simple > /etc/leaked", "index in /etc/leaked"),
    Wrong("no_secrets_in_layers", "echo open-sesame > /etc/leaked", "index in /etc/leaked"),
    # Where a build has the machine's certificates.
    Wrong("no_secrets_in_layers", f"printf -- '{PEM}' >> {CERTIFICATES}", f"trusts in {CERTIFICATES}"),
    # What a later layer removes is still in the image.
    Wrong(
        "no_secrets_in_layers", "echo open-sesame > /etc/leaked THEN rm /etc/leaked", "index in /etc/leaked"
    ),
    Wrong(
        "round_trip the_server_is_process_1",
        "printf '#!/bin/sh\necho broken on purpose; exit 3\n' > /opt/venv/bin/serve",
        "broken on purpose",
    ),
    # An image of PyTorch, checked as a cell of TensorFlow.
    Wrong("a_product_is_right keras_of_transformers", "LABEL for=pytorch", "tensorflow", TENSORFLOW),
    Wrong(
        "one_tensorflow",
        "cd {site} && mkdir -p tensorflow/python/platform && touch tensorflow/__init__.py"
        " tensorflow/python/platform/build_info.py tensorflow/libtensorflow_framework.so.2"
        " /usr/lib/libtensorflow_framework.so.2",
        "libtensorflow_framework.so.2",
        TENSORFLOW,
    ),
    # An image for inference, checked as cells for training.
    Wrong("sft_makes_an_adapter", "LABEL tunes=none", "No module named 'datasets'", TRAINING),
    Wrong("trl_has_its_command", "LABEL calls=none", "trl", TRAINING),
    Wrong("sentence_model_is_trained", "LABEL encodes=none", "No module named 'sentence_tr", TRAINING),
    # Images without CUDA, checked as a cell with it.
    Wrong("nccl_answers", "LABEL connects=none", "nccl", GPU),
    Wrong("the_library_is_for_this_cuda", "LABEL has=no-bits", "AttributeError", GPU_TRAINING),
    Wrong(
        "eight_bit_optimizer_lowers_the_loss",
        "LABEL optimizes=none",
        "No module named 'bitsandbytes'",
        GPU_TRAINING,
        gpus=True,
    ),
    Wrong("driver", "LABEL for=no-gpu", "580.65.06", GPU),
    Wrong(
        "architectures",
        "echo \"_C._cuda_getArchFlags = lambda: 'sm_35'\" >> {site}/torch/__init__.py",
        "sm_35",
        GPU,
    ),
    Wrong("cuda_libraries_are_there", "LABEL opens=none", "no library of CUDA", GPU),
    Wrong(
        "cuda_libraries_are_there",
        "printf 'try:\n    ctypes.CDLL(\"libcublas.so.13\")\nexcept OSError:\n    pass\n'"
        " >> {site}/torch/__init__.py",
        "not found: libcublas.so.13",
        GPU,
    ),
    Wrong(
        "one_cuda",
        "echo 1 > /usr/lib/libcudart.so.12 && echo 1 > /usr/lib/libcudart.so.13.0.1",
        "/usr/lib/libcudart.so.12, /usr/lib/libcudart.so.13.0.1",
        GPU,
    ),
    Wrong("the_gpu_is_seen", "LABEL sees=none", "0 >= 1", GPU, gpus=True),
    Wrong("a_product_on_the_gpu_is_right", "LABEL computes=elsewhere", "CUDA", GPU, gpus=True),
    # Without any GPU the container does not even start; with one, the toolkit does not use it.
    Wrong("a_request_is_served_from_the_gpu", "LABEL serves=elsewhere", "gpu", GPU, gpus=True),
]


@pytest.fixture(scope="module")
def images(subject: Subject) -> Iterator[Mapping[Wrong, str]]:
    """All wrong images, built in one go and gone after the tests."""
    tags = {wrong: f"hfdlc.local/wrong:{os.getpid()}-{index}" for index, wrong in enumerate(WRONG)}
    try:
        _build({tag: wrong.dockerfile(subject.image) for wrong, tag in tags.items()}, subject)
        yield tags
    finally:
        images = subject.engine.client.images
        for tag in tags.values():
            with suppress(ImageNotFound):
                images.remove(tag, force=True)


def _build(dockerfiles: Mapping[str, str], subject: Subject) -> None:
    """Build Dockerfiles that need no files, each under its tag."""
    output = bake.LOADED if subject.engine.containerd_store else bake.BuildContext.output
    with TemporaryDirectory() as folder:
        targets = {
            f"wrong-{index}": {
                "context": folder,
                "dockerfile-inline": text,
                "tags": [tag],
                "output": [output],
            }
            for index, (tag, text) in enumerate(dockerfiles.items())
        }
        file = Path(folder, "bake.json")
        file.write_text(json.dumps({"target": targets}))
        argv = [*subject.engine.buildx, "bake", "--file", str(file), "--provenance=false", *targets]
        run(argv, env=subject.engine.environment)


def outcome(subject: Subject, checks: str) -> str:
    """The messages of the named checks, each of which must fail in every case that it has."""
    names = {f"test_{check}" for check in checks.split()}
    report = runner.run(subject, only=" or ".join(sorted(names)))
    failed = {name: said for name, said in report.failed.items() if _check(name) in names}
    assert {_check(name) for name in failed} == names, f"a check found nothing wrong: {report}"
    assert not [name for name in report.passed if _check(name) in names], f"a case passed: {report}"
    return "\n".join(failed.values())


def _check(name: str) -> str:
    """The function of a check, from its name in a report: `test_all: test_port` or `...: test_x[case]`."""
    return name.rpartition(": ")[2].partition("[")[0]


@pytest.mark.parametrize("wrong", WRONG, ids=[f"{wrong.checks}-{wrong.word}" for wrong in WRONG])
def test_check_fails_on_a_wrong_image(
    subject: Subject, repository: Project, images: Mapping[Wrong, str], wrong: Wrong, tmp_path: Path
) -> None:
    """The check that looks at the point fails, no other of its name passes, and it names what differs."""
    bundle = tmp_path / "bundle.crt"
    bundle.write_text(PEM + "\n")
    machine = Machine(replace(SOURCES, certificates=bundle), public=subject.machine.public)
    (cell,) = select(repository.cells, Filter((wrong.held or subject.cell.id,)))
    with containers.idle(images[wrong], subject.engine) as container:
        read = facts.look(cell, container, image_of(images[wrong], subject.engine))
        seen = replace(
            subject,
            cell=cell,
            image=images[wrong],
            container=container,
            facts=read,
            machine=machine,
            gpus=wrong.gpus,
        )
        assert wrong.word in outcome(seen, wrong.checks)


def test_size_check_names_the_largest_parts(subject: Subject) -> None:
    """An image that is larger than its cell allows fails, and its largest layers and packages are named."""
    small = replace(subject, cell=replace(subject.cell, size=subject.facts.size - 1))
    lines = [line.strip() for line in outcome(small, "size").splitlines()]
    assert lines[0].endswith(f"{subject.facts.size - 1} allowed; the largest:")
    assert lines[1].startswith("layer framework: ")
    assert any(line.startswith("torch: ") for line in lines)


def test_every_check_has_a_wrong_image() -> None:
    """A new check needs an entry above; those of training images are in `test_training_checks_fail.py`."""
    shown = {check for wrong in WRONG for check in wrong.checks.split()} | {"size"}
    assert checks_in(CHECKS, without=["test_training"]) == shown
