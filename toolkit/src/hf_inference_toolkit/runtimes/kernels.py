"""Matrix products by oneDNN where it is faster on this processor than what PyTorch would take.

For float32 PyTorch takes MKL, which on processors that are not Intel's leaves half of the machine unused; for bfloat16
it takes oneDNN, and has it rearrange the weights in every pass. Here the weights are rearranged once. The precision
is the same; sums are made in another order.
"""

import time
from typing import Any, Callable, List

# Smaller weights gain less than the call costs.
SMALLEST = 256 * 256
# Rows that the arrangement of weights is made for; others were seen to be as fast with it.
ROWS = 64
# So much faster it must be in the probe.
MARGIN = 1.15


def quicken(model: Any) -> List[Any]:
    """Give a model's large linear layers the faster product, if there is one; the layers that got it.

    The model can be used for predictions only afterwards, and its weights cannot be saved.
    """
    layers = [layer for layer in model.modules() if _is_large(layer)]
    if not layers or not _is_faster(layers[0].weight.dtype):
        return []
    owners: Any = {}
    for part in model.modules():
        for parameter in part._parameters.values():
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for layer in layers:
        _replace(layer, owners[id(layer.weight)] > 1)
    _let_go_of_file(model)
    return layers


def restore(layers: List[Any]) -> None:
    """Give quickened layers their own ways back: some models look into the weights of their layers."""
    import torch

    for layer in layers:
        del layer.forward
        if layer.weight.is_mkldnn:
            dense = layer.weight.to_dense()
            turned = dense.t().contiguous() if type(layer).__name__ == "Conv1D" else dense
            layer.weight = torch.nn.Parameter(turned, requires_grad=False)


def _is_large(layer: Any) -> bool:
    """A linear layer, or GPT-2's own form of it, with weights worth it."""
    import torch

    is_linear = type(layer) is torch.nn.Linear or type(layer).__name__ == "Conv1D"
    if not is_linear or not isinstance(layer.weight, torch.nn.Parameter):
        return False
    good = layer.weight.device.type == "cpu" and layer.weight.dtype in (torch.float32, torch.bfloat16)
    return bool(good and layer.weight.dim() == 2 and layer.weight.numel() >= SMALLEST)


def _weight(layer: Any) -> Any:
    """The weights with a row for each output."""
    return layer.weight.t() if type(layer).__name__ == "Conv1D" else layer.weight


def _replace(layer: Any, is_shared: bool) -> None:
    import torch

    product, bias = torch.ops.mkldnn._linear_pointwise, layer.bias
    weight = _weight(layer).detach()
    # What an embedding uses, too, stays as it is.
    if not is_shared:
        weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)

    def forward(rows: Any) -> Any:
        return product(rows, weight, bias, "none", [], "")

    layer.forward = forward


def _let_go_of_file(model: Any) -> None:
    """Copy what is left of the mapped file, so that the weights are not in memory twice."""
    for parameter in model.parameters():
        if not parameter.is_mkldnn:
            parameter.data = parameter.data.clone()


def _is_faster(dtype: Any) -> bool:
    """Tried on a layer of common size; False where the release has no such product or it fails."""
    import torch

    wide = torch.ones(ROWS, 768, dtype=dtype)
    weight, bias = torch.ones(768, 768, dtype=dtype), torch.ones(768, dtype=dtype)
    try:
        product = torch.ops.mkldnn._linear_pointwise
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        product(wide, packed, bias, "none", [], "")
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    with torch.no_grad():
        usual = _seconds(lambda: torch.nn.functional.linear(wide, weight, bias))
        return usual > MARGIN * _seconds(lambda: product(wide, packed, bias, "none", [], ""))


def _seconds(work: Callable[[], Any]) -> float:
    """The least of several times."""
    taken = []
    for _ in range(8):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)
