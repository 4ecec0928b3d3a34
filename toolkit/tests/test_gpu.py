"""What only a GPU shows: not run where there is none."""

import pytest
from test_process import process, until_status

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU: not run", allow_module_level=True)

CODE = """
import torch
def model_fn(model_dir):
    return torch.nn.Embedding(4, 2).cuda()
def predict_fn(data, model):
    if data["inputs"] == "memory":
        return torch.empty(1 << 50, dtype=torch.uint8, device="cuda").numel()
    return model(torch.tensor([data["inputs"]]).cuda()).sum().item()
"""


@pytest.fixture
def server(tmp_path):
    with process(tmp_path, code=CODE) as (_, running):
        until_status(running, 200, 60)
        yield running


def test_memory_of_the_gpu_that_is_not_there_is_507(server):
    """And the next request is answered."""
    assert server.post({"inputs": "memory"}).status == 507
    assert server.post({"inputs": 1}).status == 200
    assert server.get("/ping").status == 200


def test_a_gpu_that_computes_no_more_is_told_by_ping(server):
    """An index that is not there ends the use of the GPU by the process, whatever is asked of it afterwards."""
    assert server.post({"inputs": 1}).status == 200
    assert server.post({"inputs": 99}).status == 500
    until_status(server, 500)
    assert server.post({"inputs": 1}).json["error"]["code"] == "unhealthy"
