"""An estimate of the memory that loading a model needs, from the sizes of its files."""

import json
import struct
from pathlib import Path
from typing import Iterable, List

from hf_inference_toolkit.loading import adapter_folder, hub
from hf_inference_toolkit.loading.user_code import is_present
from hf_inference_toolkit.runtimes.select import installed_framework, weight_files
from hf_inference_toolkit.settings import Settings

# Bytes of a number in the precisions that weights are loaded in. int8 is made of float32.
BYTES = {"float32": 4, "int8": 4, "auto": 4, "bfloat16": 2, "float16": 2}
# Floating-point types of safetensors.
FLOATS = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
# A file of safetensors begins with the length of its header.
_LENGTH = struct.Struct("<Q")
_LONGEST_HEADER = 100 * 1024 * 1024


def estimate(settings: Settings) -> int:
    """Bytes of the weights in HF_DTYPE, and of what is needed beside them while they are read.

    User code may load any of its files, so that all of them count. The weights of an adapter are those of its base.
    """
    folder = Path(settings.model_dir)
    if is_present(settings, folder):
        return sum(_size(path) for path in folder.rglob("*") if path.is_file())
    weights = _weights(adapter_folder.find(settings, folder).weights)
    if weights and weights[0].suffix == ".safetensors":
        return sum(_safetensors(path, BYTES[settings.dtype]) for path in weights)
    # The file is read as a whole, and then copied into the model. Its precision is unknown.
    return 2 * sum(map(_size, weights))


def _weights(folder: Path) -> List[Path]:
    """The files of weights that will be loaded: all shards of the preferred kind."""
    for kind in weight_files(installed_framework()):
        found: Iterable[Path] = (path for pattern in hub.SHARDS[kind] for path in folder.glob(pattern))
        files = sorted(path for path in found if path.is_file())
        if files:
            return files
    return []


def _size(path: Path) -> int:
    return path.stat().st_size


def _safetensors(path: Path, width: int) -> int:
    """The bytes of the tensors of a file when floating-point numbers have `width` bytes."""
    size = _size(path)
    try:
        with path.open("rb") as file:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            header = json.loads(file.read(min(length, _LONGEST_HEADER)).decode("utf-8"))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        return int(sum(_tensor(one["dtype"], one["data_offsets"], width) for one in tensors))
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        return size  # it is damaged: loading it gives the reason


def _tensor(dtype: str, offsets: List[int], width: int) -> int:
    begin, end = offsets
    return int(end - begin) * width // FLOATS.get(dtype, width)
