"""Checks of inference images: SageMaker's hosting contract."""

from collections.abc import Iterator
from typing import Any

import pytest

from hfdlc.checks.subject import Subject, invoke, wait_until_ready

# The files of a tokenizer that every release reads, and a BERT of two layers with random weights.
TOKENIZER = """
import json, os
from transformers import BertConfig
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "container", "works"]
with open(os.path.join(folder, "vocab.txt"), "w") as file:
    file.write("\\n".join(words) + "\\n")
with open(os.path.join(folder, "tokenizer_config.json"), "w") as file:
    json.dump({"tokenizer_class": "BertTokenizer", "model_max_length": 64}, file)
config = BertConfig(
    vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=37,
    max_position_embeddings=64, tokenizer_class="BertTokenizer", id2label={0: "NEGATIVE", 1: "POSITIVE"},
    label2id={"NEGATIVE": 0, "POSITIVE": 1},
)
"""
BERT = {
    "pytorch": """
from transformers import AutoModelForSequenceClassification
AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
""",
    # TensorFlow creates the weights when the model is first called.
    "tensorflow": """
from transformers import TFAutoModelForSequenceClassification
model = TFAutoModelForSequenceClassification.from_config(config)
model(model.dummy_inputs)
model.save_pretrained(folder)
""",
}


@pytest.fixture(scope="session")
def model(subject: Subject) -> Iterator[str]:
    """A volume with the small model."""
    with subject.model(TOKENIZER + BERT[subject.cell.framework]) as volume:
        yield volume


def _is_classified(answer: Any) -> bool:
    (best,) = answer
    return best["label"] in ("NEGATIVE", "POSITIVE") and 0.5 <= best["score"] <= 1


def _is_embedded(answer: Any) -> bool:
    """One sequence, at least three tokens (special ones may be added), 32 numbers each."""
    return len(answer) == 1 and len(answer[0]) >= 3 and {len(token) for token in answer[0]} == {32}


@pytest.mark.parametrize(
    ("task", "is_right"),
    [("text-classification", _is_classified), ("feature-extraction", _is_embedded)],
    ids=["text-classification", "feature-extraction"],
)
def test_round_trip(subject: Subject, model: str, task: str, is_right: Any) -> None:
    """The image serves a model: /ping becomes 200, /invocations answers."""
    with subject.serving(task, model) as container:
        wait_until_ready(container)
        status, answer = invoke(container, {"inputs": "a container works"})
    assert status == 200, answer
    assert is_right(answer), answer


def test_the_server_is_process_1(subject: Subject, model: str) -> None:
    """SIGTERM ends the server with exit code 0, in the 30 seconds that SageMaker allows."""
    with subject.serving("text-classification", model) as container:
        wait_until_ready(container)
        container.kill("SIGTERM")
        assert container.wait(timeout=30)["StatusCode"] == 0


def test_health_check(subject: Subject, model: str) -> None:
    """The image declares `serve --check`, which fails while the model loads and succeeds afterwards."""
    assert (subject.config.get("Healthcheck") or {}).get("Test") == ["CMD", "serve", "--check"]
    with subject.serving("text-classification", model) as container:
        assert container.exec_run(["serve", "--check"])[0] == 1
        wait_until_ready(container)
        status, output = container.exec_run(["serve", "--check"])
    assert status == 0, output


def test_restricted_container(subject: Subject, model: str) -> None:
    """The server works as any user, on a read-only file system beside /tmp, without capabilities."""
    with subject.serving("text-classification", model, restricted=True) as container:
        wait_until_ready(container)
        status, answer = invoke(container, {"inputs": "a container works"})
    assert status == 200, answer
