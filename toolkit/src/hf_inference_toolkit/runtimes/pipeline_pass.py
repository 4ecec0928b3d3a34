"""Passes of models that transformers' pipelines run."""

from typing import TYPE_CHECKING, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Type

from hf_inference_toolkit.annotations import Arrays
from hf_inference_toolkit.runtimes.openvino import Compiled, Pass, UnsuitableError

if TYPE_CHECKING:
    import numpy
    import torch
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

# A pass for each of these inputs would be compiled for each of its shapes: images have one size after preprocessing.
IMAGE_DIMENSIONS = 4


class PipelineModel:
    """The model of a pipeline: how it is called, and the replacement of its passes."""

    def __init__(self, model: "PreTrainedModel") -> None:
        self.model = model
        self._arguments: Optional[Mapping[str, object]] = None
        self._kind: Type["ModelOutput"] = None  # type: ignore[assignment]
        self._recorder = model.register_forward_hook(self._record, with_kwargs=True)

    def _record(
        self, _: "PreTrainedModel", args: Sequence[object], arguments: Mapping[str, object], outputs: object
    ) -> None:
        self._arguments = None if args else dict(arguments)
        self._kind = type(outputs)

    def example(self) -> Tuple[Arrays, Dict[str, object]]:
        """The arrays and the other arguments of the last recorded call."""
        self._recorder.remove()
        if self._arguments is None:
            raise UnsuitableError("no sample shows how the pipeline calls the model")
        if getattr(self.model, "can_generate", bool)():
            raise UnsuitableError("it generates text")
        return _split(self._arguments)

    def pass_of(self, model: "PreTrainedModel", constants: Mapping[str, object]) -> Pass:
        """Passes of the model or of a copy in another precision."""
        import torch

        dtype = next(model.parameters()).dtype

        def run(arrays: Arrays) -> Arrays:
            with torch.no_grad():
                outputs = model(**_tensors(arrays, dtype), **constants)
            if not hasattr(outputs, "items") or not all(torch.is_tensor(one) for one in outputs.values()):
                raise UnsuitableError("its outputs are not tensors only")
            return {name: one.float().numpy() for name, one in outputs.items()}

        return run

    def samples(self, example: Arrays, run: Pass) -> Tuple[List[Arrays], Dict[str, Sequence[int]]]:
        """Inputs to compare with, and those whose shape is fixed: images, and what the model takes in one shape."""
        import numpy

        twice = {name: numpy.concatenate([array, array[::-1]]) for name, array in example.items()}
        everything: Dict[str, Sequence[int]] = {name: array.shape[1:] for name, array in example.items()}
        images = {name: shape for name, shape in everything.items() if len(shape) >= IMAGE_DIMENSIONS - 1}
        if len(images) == len(example):
            return [example, twice], images
        shorter = _with_length(example, lambda array: array[:, : max(1, array.shape[1] * 3 // 4)])
        longer = _with_length(example, lambda array: numpy.concatenate([array] * 4, axis=1))
        if not _works(run, shorter):  # the model takes one shape only
            return [example, twice], everything
        return [example, twice, shorter, *([longer] if _works(run, longer) else [])], images

    def replace(self, compiled: Compiled, constants: Mapping[str, object]) -> None:
        """Compute the passes with OpenVINO from the next one on."""
        self.model.forward = PipelinePass(self.model.forward, compiled, constants, self._kind)


class PipelinePass:
    """Called as the model's `forward`. A call with other arguments than the recorded ones is PyTorch's."""

    def __init__(
        self,
        original: Callable[..., "ModelOutput"],
        compiled: Compiled,
        constants: Mapping[str, object],
        kind: Type["ModelOutput"],
    ) -> None:
        self._original = original
        self._compiled = compiled
        self._constants = constants
        # The class of the model's outputs.
        self._kind = kind

    def __call__(self, *args: object, **arguments: object) -> "ModelOutput":
        """One pass."""
        import torch

        arrays, constants = _split(arguments)
        if args or constants != self._constants or not self._compiled.fits(arrays):
            return self._original(*args, **arguments)
        outputs = self._compiled(arrays)
        return self._kind(**{name: torch.from_numpy(array) for name, array in outputs.items()})


def _split(arguments: Mapping[str, object]) -> Tuple[Arrays, Dict[str, object]]:
    """The tensors as arrays, and the other arguments. A None is as good as no argument."""
    import torch

    tensors = {name: value for name, value in arguments.items() if torch.is_tensor(value)}
    others = {name: value for name, value in arguments.items() if name not in tensors and value is not None}
    return {name: _array(tensor) for name, tensor in tensors.items()}, others


def _array(tensor: "torch.Tensor") -> "numpy.ndarray":
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _tensors(arrays: Arrays, dtype: "torch.dtype") -> Dict[str, "torch.Tensor"]:
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: one.to(dtype) if one.is_floating_point() else one for name, one in tensors.items()}


def _with_length(example: Arrays, change: Callable[["numpy.ndarray"], "numpy.ndarray"]) -> Arrays:
    """The example with sequences of another length."""
    return {
        name: change(array) if 1 < array.ndim < IMAGE_DIMENSIONS else array for name, array in example.items()
    }


def _works(run: Pass, arrays: Arrays) -> bool:
    """Whether the model takes these inputs."""
    try:
        run(arrays)
    except Exception:
        return False
    return True
