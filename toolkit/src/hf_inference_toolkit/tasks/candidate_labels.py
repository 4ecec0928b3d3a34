"""Candidate labels and hypothesis templates of all zero-shot tasks."""

from typing import List, Optional

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import Texts
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.tasks.parameters import Parameter

CANDIDATE_LABELS = Parameter(
    "candidate_labels",
    "strings",
    "the labels: a list, or a comma-separated string",
    longest=limits.LABEL_CHARACTERS,
    most=limits.LABELS,
)
HYPOTHESIS_TEMPLATE = Parameter(
    "hypothesis_template", "string", "a sentence with {} where the label goes", longest=limits.SHORT_TEXT
)


def split_labels(value: Optional[Texts], task: str) -> List[str]:
    """The labels as a list. A string is split at its commas."""
    if value is None:
        raise RequestError("unsupported_value", "{} needs parameters.candidate_labels".format(task))
    labels = value
    if isinstance(value, str):
        labels = [label.strip() for label in value.split(",") if label.strip()]
    if not labels or not all(label.strip() for label in labels):
        raise RequestError(
            "unsupported_value", "candidate_labels must contain at least one label, and no empty label"
        )
    longest = max(map(len, labels))
    allowed = min(limits.SHORT_TEXT, limits.LABEL_CHARACTERS // len(labels))
    if len(labels) > limits.LABELS or longest > allowed:
        raise RequestError(
            "unsupported_value",
            "candidate_labels has {} labels of up to {} characters; allowed are {} labels, and {} characters in "
            "each of so many".format(len(labels), longest, limits.LABELS, allowed),
        )
    return list(labels)


def check_template(template: str) -> None:
    """RequestError for other braces than one {}: transformers uses str.format, which can read attributes."""
    rest = template.replace("{}", "", 1)
    if rest == template or "{" in rest or "}" in rest:
        raise RequestError(
            "unsupported_value",
            "hypothesis_template must contain {} once, where the label goes, and no other brace",
        )
