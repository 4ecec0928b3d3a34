"""OpenVINO: conversion of models that PyTorch has loaded, and their passes on the CPU."""

import contextlib
import importlib.util
import logging
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterator, List, Mapping, NamedTuple, Sequence, Tuple, Union

from hf_inference_toolkit.annotations import Arrays
from hf_inference_toolkit.runtimes import threads

if TYPE_CHECKING:
    import openvino
    import torch
    import transformers

NAME = "OpenVINO"
# Computes one pass.
Pass = Callable[[Arrays], Arrays]
# HF_DTYPE, and what OpenVINO calls it in its hints and in its list of a processor's capabilities.
PRECISIONS = {
    "float32": ("f32", "FP32"),
    "bfloat16": ("bf16", "BF16"),
    "float16": ("f16", "FP16"),
    "int8": ("f32", "INT8"),
}
# Lengths are padded to a multiple, because the first pass of a shape is slower. In float32 a pass takes longer, so
# padding to 8 costs more than new shapes do.
MULTIPLE = 8
MULTIPLE_FLOAT32 = 4
# Compiled primitives that are kept, of all shapes together; a shape of DistilBERT takes about 1 MB, and OpenVINO's
# default of 5000 keeps hundreds of shapes.
CACHED_PRIMITIVES = 500
# The files of a saved model: the second one has the weights.
MODEL, WEIGHTS = "model.xml", "model.bin"
# Weights of matrix products that are smaller stay as they are in int8.
SMALLEST_INT8 = 4096


class UnsuitableError(Exception):
    """OpenVINO cannot compute a model's passes; the message is the reason."""


class Signature(NamedTuple):
    """How a model is called: with these tensors, and with these other arguments."""

    inputs: Sequence[str]
    constants: Mapping[str, object]
    # Inputs whose shape is fixed but for the number of rows: images.
    fixed: Mapping[str, Sequence[int]] = {}


def is_installed() -> bool:
    """Whether the package is there. It is imported only if it is used."""
    return importlib.util.find_spec("openvino") is not None


def supported_precisions() -> List[str]:
    """The values of HF_DTYPE that this processor can compute in."""
    import openvino

    known = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [name for name, (_, capability) in PRECISIONS.items() if capability in known]


class Compiled:
    """A compiled model. It is called in one thread at a time."""

    def __init__(
        self,
        source: Union[str, "openvino.Model"],
        dtype: str,
        cpus: int,
        check: Callable[[], None],
        is_mapped: bool = True,
    ) -> None:
        """`source` is a converted model, or the path of a saved one, whose weights may stay in the mapped file."""
        import openvino

        hints = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype][0],
            "INFERENCE_NUM_THREADS": cpus,
            "NUM_STREAMS": 1,
            "CPU_RUNTIME_CACHE_CAPACITY": CACHED_PRIMITIVES,
        }
        if threads.has_quota():
            # The quota is of time, not of CPUs.
            hints["ENABLE_CPU_PINNING"] = False
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": is_mapped})
        compiled = core.compile_model(source, "CPU", hints)
        self._shapes = {one.get_any_name(): one.get_partial_shape() for one in compiled.inputs}
        self.outputs = [one.get_any_name() for one in compiled.outputs]
        # Lengths should be multiples of this.
        self.multiple = MULTIPLE_FLOAT32 if dtype == "float32" else MULTIPLE
        self._request = compiled.create_infer_request()
        self._check = check
        self._lock = threading.Lock()

    def fits(self, arrays: Arrays) -> bool:
        """Whether the model takes these inputs."""
        import openvino

        return set(arrays) == set(self._shapes) and all(
            self._shapes[name].compatible(openvino.PartialShape(list(array.shape)))
            for name, array in arrays.items()
        )

    def __call__(self, arrays: Arrays) -> Arrays:
        """One pass. Calls `check` before and after it, which raises where the result is not needed.

        A pass is not interrupted: after `InferRequest.cancel` of OpenVINO 2026.4 with dynamic shapes, the next pass
        failed with shapes of the cancelled one, or the heap was damaged.
        """
        self._check()
        # A pass far beyond its deadline has another thread's pass behind it.
        with self._lock:
            self._request.infer(arrays, share_inputs=True)
            outputs = {name: self._request.get_tensor(name).data.copy() for name in self.outputs}
        self._check()
        return outputs


def convert(
    model: "transformers.PreTrainedModel", example: Arrays, signature: Signature, outputs: Sequence[str]
) -> "openvino.Model":
    """Convert a PyTorch model by tracing a pass over example tensors. UnsuitableError with the reason if it fails.

    Passes of other threads may run meanwhile: tracing is a state of the thread.
    """
    import openvino
    import torch
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    class Adapter(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: "torch.Tensor") -> Tuple["torch.Tensor", ...]:
            found = self.model(**dict(zip(signature.inputs, tensors)), **signature.constants)
            return tuple(found[name] for name in outputs)

    tensors = tuple(torch.from_numpy(example[name]) for name in signature.inputs)
    try:
        with _quiet(), torch.no_grad():
            traced = torch.jit.trace(Adapter().eval(), tensors, strict=False, check_trace=False)
            decoder = TorchScriptPythonDecoder(traced, example_input=tensors)
            converted = openvino.convert_model(decoder, example_input=tensors)
    except Exception as problem:
        raise UnsuitableError("it cannot be converted: {}".format(first_line(problem))) from problem
    for port, name in zip([*converted.inputs, *converted.outputs], [*signature.inputs, *outputs]):
        port.get_tensor().set_names({name})
    fixed = {name: openvino.PartialShape([-1, *shape]) for name, shape in signature.fixed.items()}
    if fixed:
        converted.reshape(fixed)
    return converted


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings of tracing, which mean nothing here because the outputs are compared afterwards."""
    import torch

    warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
    # Tracing reads all attributes of the model's class.
    warnings.filterwarnings("ignore", message=".*is deprecated", module="transformers")
    ident = threading.get_ident()

    def is_of_another_thread(record: logging.LogRecord) -> bool:
        return record.thread != ident

    log = logging.getLogger("transformers.modeling_utils")
    log.addFilter(is_of_another_thread)
    try:
        yield
    finally:
        log.removeFilter(is_of_another_thread)


def quantize(converted: "openvino.Model") -> None:
    """Store the weights of matrix products in int8, one scale for each output.

    OpenVINO quantises the other factor when it computes the product.
    """
    import numpy
    import openvino
    from openvino import opset13

    for node in converted.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        constant = node.input_value(1).get_node()
        if constant.get_type_name() != "Constant" or len(constant.shape) != 2:
            continue
        weights = constant.data
        if weights.size < SMALLEST_INT8 or weights.dtype != numpy.float32:
            continue
        axis = 1 if node.get_attributes()["transpose_b"] else 0
        scale = numpy.maximum(numpy.abs(weights).max(axis, keepdims=True), 1e-12) / 127
        whole = numpy.clip(numpy.round(weights / scale), -127, 127).astype(numpy.int8)
        stored = opset13.convert(opset13.constant(whole), openvino.Type.f32)
        product = opset13.multiply(stored, opset13.constant(scale.astype(numpy.float32)))
        node.input(1).replace_source_output(product.output(0))


def save(converted: "openvino.Model", folder: Path) -> str:
    """Write model.xml and model.bin into a folder. Returns the path of the former."""
    import openvino

    path = str(folder / MODEL)
    openvino.save_model(converted, path, compress_to_fp16=False)
    return path


def first_line(problem: BaseException) -> str:
    """The line of an exception's message that names the cause; OpenVINO's begin with places in its source."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    summary = [line[3:] for line in lines if line.startswith("-- Conversion is failed for")]
    useful = [
        line
        for line in lines
        if not line.startswith(("Exception from", "Check '", "Couldn't get", "Exception:"))
    ]
    return ((summary or useful or lines or [type(problem).__name__])[0])[:300]
