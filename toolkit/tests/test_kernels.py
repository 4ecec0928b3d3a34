"""Products by the faster library give what the usual ones give."""

import pytest
import tiny

torch = pytest.importorskip("torch")
if tiny.FRAMEWORK != "pt":
    pytest.skip("shown on PyTorch", allow_module_level=True)

import serving  # noqa: E402

from hf_inference_toolkit.loading.loader import load_model  # noqa: E402
from hf_inference_toolkit.runtimes import kernels  # noqa: E402
from hf_inference_toolkit.runtimes.select import create_runtime  # noqa: E402


class Tied(torch.nn.Module):
    """A linear layer of its own, and one that uses an embedding's weights."""

    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(300, 256)
        self.middle = torch.nn.Linear(256, 256)
        self.small = torch.nn.Linear(256, 8)
        self.head = torch.nn.Linear(256, 300, bias=False)
        self.head.weight = self.words.weight

    def forward(self, numbers):
        hidden = torch.tanh(self.middle(self.words(numbers)))
        return self.head(hidden), self.small(hidden)


@pytest.fixture
def is_possible(request):
    """Skips where the installed release, or the processor, has no such product."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    dtype = getattr(torch, parameters.get("dtype", "float32"))
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.ones(256, 256, dtype=dtype), kernels.ROWS)
    except (AttributeError, RuntimeError):
        assert kernels._gain(dtype) == 0
        pytest.skip(
            "this release of PyTorch has no such product for this processor; that it is not tried was checked"
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (32, 40)])
@pytest.mark.usefixtures("is_possible")
def test_onednn_layers_give_the_same(monkeypatch, dtype, shape):
    """Own weights, shared ones and small ones, in both precisions and any number of rows."""
    monkeypatch.setattr(kernels, "_gain", lambda dtype: 2.0)
    tiny.seed()
    model = Tied().to(getattr(torch, dtype)).eval()
    numbers = torch.arange(shape[0] * shape[1]).reshape(shape) % 300
    with torch.no_grad():
        expected = model(numbers)
        layers = kernels.enable_onednn(model)
        found = model(numbers)
    assert model.middle.weight.is_mkldnn
    assert not model.small.weight.is_mkldnn
    assert model.head.weight is model.words.weight
    for one, other in zip(found, expected):
        assert torch.allclose(one.float(), other.float(), atol=1e-4 if dtype == "float32" else 0.05)
    kernels.disable_onednn(layers)
    with torch.no_grad():
        for one, other in zip(model(numbers), expected):
            assert torch.equal(one, other)


@pytest.mark.usefixtures("is_possible")
def test_conv1d_layers_use_onednn(monkeypatch):
    """Their weights stand the other way round."""
    import transformers

    monkeypatch.setattr(kernels, "_gain", lambda dtype: 2.0)
    tiny.seed()
    config = transformers.GPT2Config(vocab_size=300, n_embd=256, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    numbers = torch.arange(20).reshape(2, 10)
    with torch.no_grad():
        expected = model(numbers).logits
        layers = kernels.enable_onednn(model)
        assert model.transformer.h[0].mlp.c_fc.weight.is_mkldnn
        assert torch.allclose(model(numbers).logits, expected, atol=1e-4)
        kernels.disable_onednn(layers)
        assert torch.equal(model(numbers).logits, expected)


@pytest.mark.usefixtures("is_possible")
def test_model_that_looks_into_its_weights_is_served_without(monkeypatch, tmp_path):
    """The warm-up finds that, and the framework's own products come back."""
    import transformers

    monkeypatch.setattr(kernels, "_gain", lambda dtype: 2.0)
    sizes = dict(tiny.BERT, hidden_size=256, intermediate_size=256)
    tiny.save(tmp_path / "m", "BertConfig", "BertForSequenceClassification", sizes, **tiny.labels("a", "b"))
    kind = type(transformers.BertForSequenceClassification.from_pretrained(str(tmp_path / "m")).bert.pooler)

    def forward(self, hidden):
        return torch.tanh(torch.matmul(hidden[:, 0], self.dense.weight.t()) + self.dense.bias)

    monkeypatch.setattr(kind, "forward", forward)
    with serving.serve(load_model, model_dir=str(tmp_path / "m")) as server:
        assert server.post({"inputs": "I like you"}).status == 200
        assert server.app.model.service.described()["kernels"] == "default"


@pytest.mark.usefixtures("is_possible")
def test_rows_decide_in_models_that_generate_where_both_are_as_fast(monkeypatch):
    """The weights stay as they are; few rows and small weights use the usual product."""
    import transformers

    if not hasattr(transformers, "LlamaConfig"):
        pytest.skip("this release has no Llama")
    used = []
    product = torch.ops.mkldnn._linear_pointwise

    def counted(rows, *others):
        used.append(tuple(rows.shape))
        return product(rows, *others)

    monkeypatch.setattr(kernels, "_gain", lambda dtype: 1.0)
    monkeypatch.setattr(kernels, "FEWEST_PRODUCTS", 8 * 256 * 1024)
    tiny.seed()
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=256, intermediate_size=1024, num_hidden_layers=1, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config).eval()
    expected = {}
    for count in (1, 4, 10):
        numbers = torch.arange(count)[:, None]
        with torch.no_grad():
            expected[count] = model(numbers).logits
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    layers = kernels.enable_onednn(model)
    for count, found in expected.items():
        used.clear()
        with torch.no_grad():
            assert torch.allclose(model(torch.arange(count)[:, None]).logits, found, atol=1e-4)
        # The gate, up and down products.
        assert len(used) == (3 if count == 10 else 0)
    assert not any(layer.weight.is_mkldnn for layer in layers)
    assert kernels.enable_onednn(Tied()) == []


def test_where_it_is_not_faster_nothing_changes(monkeypatch):
    """Nor where a model has nothing large."""
    model = Tied()
    monkeypatch.setattr(kernels, "_gain", lambda dtype: 1.1)
    assert kernels.enable_onednn(model) == []
    assert not model.middle.weight.is_mkldnn
    assert "forward" not in vars(model.middle)
    monkeypatch.setattr(kernels, "_gain", lambda dtype: 2.0)
    assert kernels.enable_onednn(torch.nn.Linear(8, 8)) == []


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda, "enable_cudnn_sdp"), reason="this release has no attention of cuDNN's"
)
def test_attention_is_not_cudnns():
    """It would be planned anew for each shape of a batch; the switch is there without a GPU too."""
    torch.backends.cuda.enable_cudnn_sdp(True)
    create_runtime("pt")
    assert not torch.backends.cuda.cudnn_sdp_enabled()
