"""Converted models that are kept in a folder, so that the next start does not convert again."""

import errno
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, TypeVar

from hf_inference_toolkit import __version__
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.runtimes.openvino import MODEL, WEIGHTS

# Increased when the conversion changes.
FORMAT = 1
FILES = (MODEL, WEIGHTS)
MANIFEST = "manifest.json"
# The files of a model that decide its numbers.
_SUFFIXES = (".json", ".safetensors", ".bin", ".py")
_BLOCK = 1 << 20
Made = TypeVar("Made")


class Store:
    """The converted model of one model's folder, with a manifest of what it was made of and of its files' hashes."""

    def __init__(self, folder: Path, models: Sequence[Path], settings: Dict[str, str]) -> None:
        """`models` are the folders that it is made of, `settings` those that decide the result: task, precision."""
        self.folder = folder
        self._models = models
        self._settings = settings
        self._sources: Dict[str, str] = {}

    def find(self) -> Optional[Path]:
        """The file of the model if it fits and is whole, otherwise None with a log entry, or without one if missing."""
        try:
            text = (self.folder / MANIFEST).read_text(encoding="utf-8")
        except OSError:
            return None
        try:
            manifest = json.loads(text)
            fault = self._fault(manifest["made_of"], manifest["files"])
        except (OSError, ValueError, TypeError, KeyError) as problem:
            fault = "it is damaged ({})".format(type(problem).__name__)
        if fault:
            self.reject(fault)
            return None
        return self.folder / FILES[0]

    def reject(self, fault: str) -> None:
        """Log why the stored model is not used."""
        event(30, "the model is converted again: the one in {} is not used, {}".format(self.folder, fault))

    def _fault(self, made_of: Dict[str, str], files: Dict[str, str]) -> str:
        for name, value in self._made_of().items():
            if made_of.get(name) != value:
                return "it was made with another {}".format(name)
        for name in FILES:
            if _hash([self.folder / name]) != files[name]:
                return "{} is damaged".format(name)
        return ""

    def write(self, make: Callable[[Path], Made]) -> Optional[Made]:
        """Replace the stored model by what `make` writes into a folder, unless it raises. Returns what it returns.

        None if the files cannot be written.
        """
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=self.folder.name + ".", dir=str(self.folder.parent)))
        except OSError as problem:
            event(20, "the converted model is not stored in {}: {}".format(self.folder, problem))
            return None
        try:
            made = make(new)
            files = {name: _hash([new / name]) for name in FILES}
            manifest = json.dumps({"made_of": self._made_of(), "files": files}, indent=2)
            (new / MANIFEST).write_text(manifest, encoding="utf-8")
            new.chmod(0o755)
            _replace(self.folder, new)
            return made
        except (OSError, RuntimeError) as problem:  # RuntimeError is OpenVINO's for a full disk
            event(30, "the converted model cannot be stored in {}: {}".format(self.folder, problem))
            return None
        finally:
            shutil.rmtree(str(new), ignore_errors=True)

    def _made_of(self) -> Dict[str, str]:
        """What decides the result. The model's files are read only once: that takes a second for each gigabyte."""
        if not self._sources:
            sources = [
                path
                for model in self._models
                for path in sorted(model.iterdir())
                if path.suffix in _SUFFIXES and path.is_file()
            ]
            self._sources = dict(_versions(), **self._settings)
            self._sources["processor"] = _processor()
            self._sources["model"] = _hash(sources)
        return self._sources


def store_of(
    model: Path, task: str, dtype: str, home: Optional[str], base: Optional[Path] = None
) -> Optional[Store]:
    """Where the converted model of a folder is kept: in `home`, or beside the model. None if neither is writable.

    `base` is the folder of the base model, if the model is an adapter.
    """
    above = _above(model, home)
    if above is None:
        return None
    models = [model] if base in (None, model) else [model, base]
    return Store(above / "{}-{}".format(task, dtype), models, {"task": task, "dtype": dtype})


def only_store(model: Path, dtype: str, home: Optional[str], base: Optional[Path] = None) -> Optional[Store]:
    """What store_of returns for the only task for which a model is stored in this precision; None if there are more."""
    above = _above(model, home)
    suffix = "-" + dtype
    tasks = [folder.name[: -len(suffix)] for folder in above.glob("*" + suffix)] if above is not None else []
    return store_of(model, tasks[0], dtype, home, base) if len(tasks) == 1 else None


def _above(model: Path, home: Optional[str]) -> Optional[Path]:
    """The folder of the converted models of a model. None if none can be written."""
    if home is not None:
        digest = hashlib.sha256(str(model.resolve()).encode("utf-8")).hexdigest()[:16]
        return Path(home) / "openvino" / digest
    return model / "openvino" if os.access(str(model), os.W_OK) else None


def _replace(folder: Path, new: Path) -> None:
    """Move a new folder to its place. The old one's files stay readable for processes that have mapped them."""
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=str(folder.parent)))
        os.replace(str(folder), str(old / "old"))  # noqa: PTH105 - Python 3.6
        shutil.rmtree(str(old), ignore_errors=True)
    try:
        new.rename(folder)
    except OSError as problem:
        # Another server may have been faster.
        if problem.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _versions() -> Dict[str, str]:
    import openvino
    import torch
    import transformers

    return {
        "version of the toolkit": "{}, format {}".format(__version__, FORMAT),
        "version of OpenVINO": str(openvino.__version__),
        "version of PyTorch": str(torch.__version__),
        "version of transformers": str(transformers.__version__),
        "version of Python": "{}.{}".format(*sys.version_info),
    }


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The architecture and the instructions of the processor."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    flags: List[str] = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    text = " ".join([platform.machine(), *sorted(flags)])
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def _hash(paths: List[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update("{}\0{}\0".format(path.name, path.stat().st_size).encode("utf-8"))
        with path.open("rb") as file:
            block = file.read(_BLOCK)
            while block:
                digest.update(block)
                block = file.read(_BLOCK)
    return digest.hexdigest()
