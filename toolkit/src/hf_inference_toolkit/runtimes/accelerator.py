"""Faults of a GPU."""

import sys
from typing import Any


def accelerator_fault() -> str:
    """Why PyTorch can use a GPU no more in this process; nothing where it can, or has none in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return ""
    for device in range(torch.cuda.device_count()):
        if torch.cuda.memory_reserved(device):  # looking at one that is not in use would make it be
            faults = [_fault(torch, device) for _ in range(2)]
            if all(faults):  # what passes is not the end of it
                return faults[-1]
    return ""


def _fault(torch: Any, device: int) -> str:
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as problem:
        return (str(problem) or repr(problem)).splitlines()[0]
    return ""
