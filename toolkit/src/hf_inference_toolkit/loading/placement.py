"""Large models: layers on several devices (accelerate), and quantised checkpoints."""

import importlib.util
import re
from pathlib import Path
from typing import Dict

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading import model_folder
from hf_inference_toolkit.runtimes.base import Runtime
from hf_inference_toolkit.settings import Settings


def method(folder: Path) -> str:
    """How the weights in a folder are quantised, such as gptq; "" if they are not."""
    config = model_folder.read_config(folder).get("quantization_config")
    return str(config.get("quant_method") or "an unknown method") if isinstance(config, dict) else ""


def arguments(settings: Settings, folder: Path, runtime: Runtime) -> Dict[str, object]:
    """Arguments of `from_pretrained` and `pipeline`. StartError if a package for them is missing."""
    quantised = method(folder)
    if runtime.prefix and (settings.device_map or quantised):
        what = "HF_DEVICE_MAP={}".format(settings.device_map) if settings.device_map else "a quantised model"
        raise StartError("{} needs PyTorch, and this image has TensorFlow".format(what))
    if settings.device_map:
        if importlib.util.find_spec("accelerate") is None:
            raise StartError(
                "HF_DEVICE_MAP={} needs accelerate, which this image does not have: add accelerate to "
                "code/requirements.txt, or unset HF_DEVICE_MAP".format(settings.device_map)
            )
        # Layers cannot be converted once they are in their places. Quantised ones have the precision of their file.
        wanted = "auto" if quantised else getattr(runtime, "type", None)
        return {"device_map": settings.device_map, _dtype_name(): wanted}
    return {_dtype_name(): "auto"} if quantised else {}


def _dtype_name() -> str:
    import transformers

    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if version >= (4, 56) else "torch_dtype"


def unloadable(folder: Path, problem: Exception) -> StartError:
    """The error for a quantised checkpoint that cannot be loaded: it names the missing package, or the reason."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()] or [repr(problem)]
    what = "the model in {} is quantised ({})".format(folder, method(folder))
    packages = re.findall(r"pip install (?:-U |--upgrade )?['\"]?([A-Za-z0-9][\w-]*)", str(problem))
    if isinstance(problem, ImportError) and packages:
        return StartError(
            "{} and needs {}, which this image does not have: add it to code/requirements.txt, or use the model "
            "without quantisation ({})".format(what, " and ".join(packages), lines[0][:300])
        )
    return StartError(
        "{} and cannot be loaded here: {}. Use a machine that supports it, or the model without quantisation".format(
            what, lines[0][:300].rstrip(".")
        )
    )
