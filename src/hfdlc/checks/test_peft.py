"""Checks of peft, for images with the layer group `peft`."""

from hfdlc.checks.subject import Subject

# An adapter is trained, written, read into a new copy of its base, and merged into the weights.
ADAPTER = """
import tempfile, torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
)
ids = torch.arange(12).reshape(1, 12)
def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(config)
def logits(model):
    with torch.inference_mode():
        return model.eval()(ids).logits
trained = get_peft_model(base(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
optimizer = torch.optim.SGD([each for each in trained.parameters() if each.requires_grad], lr=1.0)
losses = []
for _ in range(3):
    loss = trained(ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
with tempfile.TemporaryDirectory() as folder:
    trained.save_pretrained(folder)
    read = PeftModel.from_pretrained(base(), folder)
wanted, before = logits(trained), logits(base())
merged = logits(read.merge_and_unload())
print(losses[-1] < losses[0], torch.allclose(before, wanted), torch.allclose(merged, wanted, atol=1e-5))
"""


def test_adapter_is_trained_and_merged(subject: Subject) -> None:
    """LoRA lowers the loss, and the merged weights give what the adapter gave."""
    assert subject.python(ADAPTER).split()[-3:] == ["True", "False", "True"]
