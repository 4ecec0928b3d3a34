"""Where the servers run: the packages of the default image in one environment, each peer's in another."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hfdlc.engine import debian
from hfdlc.locks.indexes import IndexConfig, index_config
from hfdlc.state import State

ROOT = Path(__file__).parents[2]
# What `docker run IMAGE serve` would have: the lines of the default cell's locks.
LOCKS = sorted((ROOT / "images/huggingface-pytorch-inference").glob("2.13.0-*-cpu-py311-*/*.lock"))
TORCH_PAGE = "https://download.pytorch.org/whl/cpu/torch/"
# The packages of each peer, beside PyTorch in the image's version. The newest releases of the SageMaker
# toolkit and of infinity-emb do not import with transformers 5.
PEERS = {
    "sagemaker": (
        "sagemaker-huggingface-inference-toolkit==2.6.0",
        "multi-model-server==1.1.11",
        "transformers==4.57.6",
        "setuptools<81",
    ),
    "litserve": ("litserve==0.2.19", "transformers==5.23.0"),
    "infinity": ("infinity-emb[torch,server]==0.0.78", "transformers==4.57.6"),
}
# What bare passes need beside the packages of the image.
REFERENCES = ("onnxruntime==1.32.0", "onnx==1.23.2", "onnxscript==0.7.2")


def server(state: State) -> Path:
    """A Python with the packages of the default image."""
    return with_packages(state, "bench-serving/ours", ())


def with_packages(state: State, name: str, more: Sequence[str]) -> Path:
    """A Python with the packages of the default image and some more."""
    locks = [word for lock in LOCKS for word in ("-r", str(lock))]
    return _made(state.root / name, [*locks, *more], index_config(os.environ))


def references(state: State) -> Path:
    """The packages of the default image, and ONNX Runtime."""
    return with_packages(state, "bench-serving/references", REFERENCES)


def peer(name: str, state: State) -> Path | None:
    """The Python of a peer; None for the SageMaker toolkit where there is no Java."""
    if name == "sagemaker" and shutil.which("java") is None:
        return None
    return _made(state.root / "bench-serving" / name, [*PEERS[name], _pin("torch")], index_config(os.environ))


def plotter(state: State) -> Path:
    """A Python that can draw."""
    return _made(state.root / "bench-serving/plot", ["matplotlib"], index_config(os.environ))


def _made(folder: Path, wanted: list[str], sources: IndexConfig) -> Path:
    """A virtual environment with these packages, made once."""
    mark, python = folder / "wanted", folder / "bin/python"
    texts = [Path(word).read_text() if Path(word).is_file() else word for word in wanted]
    if not mark.is_file() or mark.read_text() != "\n".join(texts):
        shutil.rmtree(folder, ignore_errors=True)
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "-q", "--python", "3.11", str(folder)], check=True)
        page = ["--find-links", TORCH_PAGE] if not sources.wheel_folders else []
        command = [
            uv,
            "pip",
            "install",
            "-q",
            "--python",
            str(python),
            "--index-strategy",
            "unsafe-best-match",
            "--compile-bytecode",
        ]
        where = [*sources.uv_arguments(), *sources.wheel_arguments(), *page]
        subprocess.run([*command, *where, *wanted], check=True)
        mark.write_text("\n".join(texts))
    return python


def _pin(name: str) -> str:
    """A package as the cell's locks have it."""
    for lock in LOCKS:
        if found := re.search(rf"^{name}==\S+", lock.read_text(), re.MULTILINE):
            return found[0]
    raise LookupError(f"no lock has {name}")


def wrk(state: State) -> list[str]:
    """Debian's wrk, unpacked below the state folder."""
    root = debian.unpack({"bookworm": ("wrk", "libluajit-5.1-2")}, state.root / "tools" / "wrk", state)
    libraries = root / "usr/lib/x86_64-linux-gnu"
    return ["env", f"LD_LIBRARY_PATH={libraries}", str(root / "usr/bin/wrk")]
