"""Labels and templates of clients, in every zero-shot task."""

import base64
import json

import pytest
import tiny
import tiny_pipelines

from hf_inference_toolkit.content import codecs
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.settings import Settings

pytest.importorskip("transformers", minversion="4.46")
pytest.importorskip("PIL")
if tiny.FRAMEWORK != "pt":
    pytest.skip("shown on PyTorch", allow_module_level=True)

TASKS = ("zero-shot-classification", "zero-shot-image-classification", "zero-shot-object-detection")
TEMPLATES = [
    "{:>60000000}",
    "{0}",
    "{0.__class__.__mro__}",
    "{} {}",
    "{",
    "}{}",
    "{{}}",
    "no label",
    "",
    "a" * 1000 + "{}",
]


@pytest.fixture(params=TASKS)
def zero_shot(request, model_folder, pipeline_service):
    """A function that answers with the labels of one task."""
    task = request.param
    if task == "zero-shot-classification":
        service = load_model(Settings(model_dir=str(model_folder(task)), task=task))
    else:
        service = pipeline_service(task)
    inputs = "I like you" if task == TASKS[0] else base64.b64encode(tiny_pipelines.png()).decode()

    def ask(**parameters):
        body = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
        read = service.read(body, codecs.MediaType(codecs.JSON, {}), codecs.JSON)
        value = service.predict(read, lambda: None).value
        return sorted(value["labels"] if isinstance(value, dict) else {one["label"] for one in value})

    ask.takes_template = task != "zero-shot-object-detection"
    return ask


def refusal(ask, **parameters):
    with pytest.raises(RequestError) as refused:
        ask(**parameters)
    assert refused.value.status == 400
    return refused.value.message


def test_labels_in_a_string_are_split_at_commas(zero_shot):
    """The string and the list are the same request."""
    assert zero_shot(candidate_labels="cat, dog") == zero_shot(candidate_labels=["cat", "dog"])
    assert set(zero_shot(candidate_labels="cat,dog")) <= {"cat", "dog"}


def test_templates_hold_the_label_once_and_nothing_else(zero_shot):
    """`str.format` fills them: a width would take gigabytes, a field would read attributes."""
    for template in TEMPLATES:
        refusal(zero_shot, candidate_labels=["cat"], hypothesis_template=template)
    if zero_shot.takes_template:
        assert zero_shot(candidate_labels=["cat"], hypothesis_template="one {}") == ["cat"]


def test_labels_have_limits(zero_shot):
    """Their number, the length of each, and both together: one long label makes all others as long."""
    refusal(zero_shot)
    refusal(zero_shot, candidate_labels=" , ")
    assert "at most 1000" in refusal(zero_shot, candidate_labels=["cat"] * 1001)
    assert "1001 labels" in refusal(zero_shot, candidate_labels="cat," * 1001)
    assert "1001 characters" in refusal(zero_shot, candidate_labels=["a" * 1001])
    assert "100 characters in each" in refusal(zero_shot, candidate_labels=["cat"] * 999 + ["a" * 101])
