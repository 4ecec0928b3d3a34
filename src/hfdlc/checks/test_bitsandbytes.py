"""Checks of bitsandbytes, for images with the layer group `bitsandbytes`."""

import pytest

from hfdlc.checks.subject import Subject
from hfdlc.checks.test_gpu import gpu  # noqa: F401 - a fixture

# bitsandbytes loads this library only where there is a GPU.
LIBRARY = """
import ctypes, os, torch
from importlib.util import find_spec
folder = os.path.dirname(find_spec("bitsandbytes").origin)
ctypes.CDLL(os.path.join(folder, "libbitsandbytes_cuda%s.so" % torch.version.cuda.replace(".", "")))
"""
STEP = """
import torch
from bitsandbytes.optim import AdamW8bit
torch.manual_seed(0)
layer, rows = torch.nn.Linear(128, 128).cuda(), torch.randn(16, 128).cuda()
optimizer = AdamW8bit(layer.parameters(), lr=0.01, min_8bit_size=1024)
losses = []
for _ in range(3):
    loss = layer(rows).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
print(losses[-1] < losses[0], optimizer.state[layer.weight]["state1"].dtype)
"""


def test_the_library_is_for_this_cuda(subject: Subject) -> None:
    """It is there for PyTorch's CUDA, and finds the libraries that it needs."""
    subject.python(LIBRARY)


@pytest.mark.usefixtures("gpu")
def test_eight_bit_optimizer_lowers_the_loss(subject: Subject) -> None:
    """Its state is 8 bits a value."""
    assert subject.python(STEP).split() == ["True", "torch.uint8"]
