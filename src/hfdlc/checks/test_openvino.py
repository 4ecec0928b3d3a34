"""Checks of OpenVINO, for images with the layer group `openvino`."""

import json

from hfdlc.checks.subject import Subject

# A module that is converted and compiled in float32: some processors use bfloat16 by default.
CONVERTED = """
import numpy, openvino, torch
torch.manual_seed(0)
module, rows = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.GELU()).eval(), torch.randn(3, 8)
model = openvino.convert_model(module, example_input=rows)
compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
with torch.inference_mode():
    print(numpy.allclose(compiled(rows.numpy())[0], module(rows).numpy(), atol=1e-5))
"""


def test_openvino_has_the_cpu(subject: Subject) -> None:
    """OpenVINO finds the processor, and no other device."""
    script = "import json, openvino; print(json.dumps(openvino.Core().available_devices))"
    assert json.loads(subject.python(script)) == ["CPU"]


def test_openvino_converts_a_module(subject: Subject) -> None:
    """A PyTorch module is converted and compiled, and its outputs are PyTorch's."""
    assert subject.python(CONVERTED).splitlines()[-1:] == ["True"]


def test_no_openvino_telemetry(subject: Subject) -> None:
    """The package that reports imports and conversions to Google Analytics cannot be imported."""
    script = "from importlib.util import find_spec; print(find_spec('openvino_telemetry'))"
    assert subject.python(script).strip() == "None"
