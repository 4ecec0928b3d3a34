"""Faults of a GPU."""

import sys
from types import ModuleType


def accelerator_fault() -> str:
    """The reason why this process cannot use its GPU any more, or an empty string."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return ""
    for device in range(torch.cuda.device_count()):
        if torch.cuda.memory_reserved(device):  # synchronizing an unused device would initialize it
            faults = [_fault(torch, device) for _ in range(2)]
            if all(faults):  # a single fault may be transient
                return faults[-1]
    return ""


def _fault(torch: ModuleType, device: int) -> str:
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as problem:
        return (str(problem) or repr(problem)).splitlines()[0]
    return ""
