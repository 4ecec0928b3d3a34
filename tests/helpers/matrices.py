"""A small matrix, and copies of the repository's folders, for tests that change them."""

import shutil
from pathlib import Path

from hfdlc.matrix import cells, schema
from hfdlc.matrix.cells import Cell

TEXT = """\
default: huggingface-pytorch-inference:2.13.0-transformers5.23.0-cpu-py311-debian12
releases:
  - framework: pytorch 2.13.0
    transformers: 5.23.0
    datasets: 5.2.0
    python: 3.11
    os: debian12
    cutoff: 2026-11-20
    cells:
      inference: [cpu, cu130]
  - framework: pytorch 2.12.0
    transformers: 4.57.6
    datasets: 4.4.1
    python: 3.10
    os: debian12
    cutoff: 2026-06-20
    cells:
      inference: [cpu]
frameworks:
  pytorch:
    sources:
      - {device: cpu, packages: ["torch=={version}+cpu"], page: "https://example.org/cpu/"}
      - {device: cu130, packages: ["torch=={version}"]}
rules:
  - {when: {device: cu130}, needs: {framework_version: ">=2.13"}, reason: only 2.13 is built for CUDA 13}
drivers: {cu130: 580.65.06}
bases:
  debian12:
    image: example.org/python:{python}
    pythons: [3.10, 3.11, 3.12]
    bootstrap: {3.11: {suite: bookworm, packages: [python3]}}
    platform: x86_64-manylinux_2_28
installer:
  python: 3.11
  cutoff: 2026-11-20
  image: example.org/python:{python}
  compiler: example.org/python:{python}-gcc
  requires: [uv]
groups:
  cuda: {packages: ["nvidia-*"], when: {device: cu130}}
  framework: {rest: framework}
  arrays: {packages: [numpy]}
  libraries: {rest: libraries}
  transformers: {packages: [transformers, tokenizers]}
  type: {rest: type}
  toolkit: {rest: toolkit, requires: [starlette, uvicorn]}
slim:
  - {files: [torch/include], reason: headers}
types:
  inference:
    packages: [sentencepiece]
    size: {cpu: 1.9 GB, gpu: 9 GB}
"""


def write(folder: Path, *changes: tuple[str, str]) -> Path:
    """Write the matrix with some of its text replaced; every replaced text must be there."""
    text = TEXT
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    path = folder / "matrix.yaml"
    path.write_text(text)
    return path


def some_cells(folder: Path) -> tuple[Cell, ...]:
    """The three cells of the matrix."""
    return cells.cells(schema.read(write(folder)))


def copy_parts(root: Path, target: Path, *parts: str) -> None:
    """Copy folders of the repository, without caches (other processes may write them meanwhile) and tests."""
    ignored = shutil.ignore_patterns("__pycache__", ".venv", ".*_cache", ".hypothesis", "tests")
    for part in parts:
        shutil.copytree(root / part, target / part, ignore=ignored)
