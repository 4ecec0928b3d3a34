"""Matrix products by oneDNN where it is faster on this processor than PyTorch's default.

For float32 PyTorch uses MKL, which reaches half of the speed of oneDNN on AMD processors. For bfloat16 it uses oneDNN
but repacks the weights in every pass. Here the weights are packed once. The precision is the same; the order of
summation differs.

On Intel processors both are as fast with many rows; MKL is faster with one or two, and oneDNN with the 4 to 32 rows of
a step of text generation if the weights are large. There the weights stay as they are, so that each pass can choose.
"""

import time
from typing import TYPE_CHECKING, Callable, Dict, List

from hf_inference_toolkit.runtimes.base import can_generate

if TYPE_CHECKING:
    import torch
    import transformers

# Smaller weights gain less than a call costs.
SMALLEST = 256 * 256
# The number of rows that weights are packed for. Other numbers of rows were as fast with it.
ROWS = 64
# How much faster the probe must be; and for models that generate text, whose passes often have one row.
MARGIN, WRITER_MARGIN = 1.15, 1.4
# The fewest rows, and the fewest products of a row and a weight, with which unpacked weights gain.
FEWEST_ROWS = 4
FEWEST_PRODUCTS = 10 * 1000 * 1000


def enable_onednn(model: "transformers.PreTrainedModel") -> List["torch.nn.Module"]:
    """Let large linear layers use oneDNN if that is faster here. Returns the changed layers.

    Afterwards the model can only predict: its weights cannot be saved.
    """
    import torch

    layers = [layer for layer in model.modules() if _is_large(layer)]
    if not layers:
        return []
    dtype = layers[0].weight.dtype
    is_float32_writer = dtype == torch.float32 and can_generate(model)
    gain = _gain(dtype)
    if gain > (WRITER_MARGIN if is_float32_writer else MARGIN):
        owners: Dict[int, int] = {}
        for part in model.modules():
            for parameter in part._parameters.values():
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
        for layer in layers:
            _replace(layer, owners[id(layer.weight)] > 1)
    elif gain and is_float32_writer:
        layers = [layer for layer in layers if type(layer) is torch.nn.Linear]
        for layer in layers:
            _let_rows_decide(layer)
    else:
        return []
    copy_mapped_weights(model)
    return layers


def disable_onednn(layers: List["torch.nn.Module"]) -> None:
    """Restore changed layers, for models that read the weights of their layers."""
    import torch

    for layer in layers:
        del layer.forward
        if layer.weight.is_mkldnn:
            dense = layer.weight.to_dense()
            turned = dense.t().contiguous() if type(layer).__name__ == "Conv1D" else dense
            layer.weight = torch.nn.Parameter(turned, requires_grad=False)


def _is_large(layer: "torch.nn.Module") -> bool:
    """Whether a layer is linear (or GPT-2's Conv1D) and its weights are large enough."""
    import torch

    is_linear = type(layer) is torch.nn.Linear or type(layer).__name__ == "Conv1D"
    if not is_linear or not isinstance(layer.weight, torch.nn.Parameter):
        return False
    good = layer.weight.device.type == "cpu" and layer.weight.dtype in (torch.float32, torch.bfloat16)
    return bool(good and layer.weight.dim() == 2 and layer.weight.numel() >= SMALLEST)


def _weight(layer: "torch.nn.Module") -> "torch.Tensor":
    """The weights, one row for each output."""
    return layer.weight.t() if type(layer).__name__ == "Conv1D" else layer.weight


def _replace(layer: "torch.nn.Module", is_shared: bool) -> None:
    import torch

    product, bias = torch.ops.mkldnn._linear_pointwise, layer.bias
    weight = _weight(layer).detach()
    # Weights that an embedding shares stay unpacked.
    if not is_shared:
        weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)

    def forward(rows: "torch.Tensor") -> "torch.Tensor":
        return product(rows, weight, bias, "none", [], "")

    layer.forward = forward


def _let_rows_decide(layer: "torch.nn.Module") -> None:
    import torch

    product, usual = torch.ops.mkldnn._linear_pointwise, torch.nn.functional.linear
    width, size = layer.weight.shape[1], layer.weight.numel()
    fewest = max(FEWEST_ROWS, FEWEST_PRODUCTS // size)

    def forward(rows: "torch.Tensor") -> "torch.Tensor":
        if rows.numel() < fewest * width:
            return usual(rows, layer.weight, layer.bias)
        return product(rows, layer.weight, layer.bias, "none", [], "")

    layer.forward = forward


def copy_mapped_weights(model: "transformers.PreTrainedModel") -> None:
    """Copy the weights that still point into the mapped file, so that the file leaves memory."""
    for parameter in model.parameters():
        if not parameter.is_mkldnn:
            parameter.data = parameter.data.clone()


def _gain(dtype: "torch.dtype") -> float:
    """How many times as fast a layer of common size is. 0 where the release has no such operator or it fails."""
    import torch

    wide = torch.ones(ROWS, 768, dtype=dtype)
    weight, bias = torch.ones(768, 768, dtype=dtype), torch.ones(768, dtype=dtype)
    try:
        product = torch.ops.mkldnn._linear_pointwise
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        product(wide, packed, bias, "none", [], "")
    except (AttributeError, RuntimeError, NotImplementedError):
        return 0.0
    with torch.no_grad():
        usual = _seconds(lambda: torch.nn.functional.linear(wide, weight, bias))
        return usual / _seconds(lambda: product(wide, packed, bias, "none", [], ""))


def _seconds(work: Callable[[], object]) -> float:
    """The shortest of several runs."""
    seconds = []
    for _ in range(8):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
