"""Selection of the installed framework."""

import importlib.util
from typing import Tuple

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.runtimes.base import Runtime
from hf_inference_toolkit.runtimes.tensorflow import TensorFlow
from hf_inference_toolkit.runtimes.torch import Torch


def installed_framework() -> str:
    """`pt` or `tf`; `pt` if both are installed. StartError if neither is."""
    for module, name in (("torch", "pt"), ("tensorflow", "tf")):
        if importlib.util.find_spec(module) is not None:
            return name
    raise StartError("neither torch nor tensorflow is installed: the image is incomplete")


def create_runtime(framework: str, dtype: str = "float32") -> Runtime:
    """Create the runtime for `pt` or `tf`. StartError if the device does not support the precision."""
    return Torch(dtype) if framework == "pt" else TensorFlow(dtype)


def weight_files(framework: str) -> Tuple[str, ...]:
    """The weight files that the runtime loads, the preferred first. Does not import the framework."""
    files = (Torch if framework == "pt" else TensorFlow).weights
    if importlib.util.find_spec("safetensors") is None:
        return tuple(name for name in files if not name.endswith(".safetensors"))
    return files
