"""Labels and templates that a client sends, for every zero-shot task."""

from typing import Any, List

from hf_inference_toolkit import limits
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.tasks.parameters import Parameter

CANDIDATE_LABELS = Parameter(
    "candidate_labels",
    "strings",
    "the labels: a list, or one string with commas",
    longest=limits.LABEL_CHARACTERS,
    most=limits.LABELS,
)
HYPOTHESIS_TEMPLATE = Parameter(
    "hypothesis_template", "string", "a sentence with {} where the label goes", longest=limits.SHORT_TEXT
)


def split_labels(value: Any, task: str) -> List[str]:
    """The labels as a list: a list is used as it is, a string is split at its commas."""
    if value is None:
        raise RequestError("unsupported_value", "{} needs parameters.candidate_labels".format(task))
    labels = value
    if isinstance(value, str):
        labels = [label.strip() for label in value.split(",") if label.strip()]
    if not labels or not all(label.strip() for label in labels):
        raise RequestError(
            "unsupported_value", "candidate_labels must hold at least one label, and no empty ones"
        )
    longest = max(map(len, labels))
    allowed = min(limits.SHORT_TEXT, limits.LABEL_CHARACTERS // len(labels))
    if len(labels) > limits.LABELS or longest > allowed:
        raise RequestError(
            "unsupported_value",
            "candidate_labels holds {} labels of up to {} characters; allowed are {} labels, and {} characters in "
            "each of so many".format(len(labels), longest, limits.LABELS, allowed),
        )
    return list(labels)


def check_template(template: str) -> None:
    """A template is filled by `str.format` in transformers: any other brace would read attributes or pad."""
    rest = template.replace("{}", "", 1)
    if rest == template or "{" in rest or "}" in rest:
        raise RequestError(
            "unsupported_value",
            "hypothesis_template must hold {} once, where the label goes, and no other brace",
        )
