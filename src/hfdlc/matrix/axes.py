"""The axes of the matrix, and the conditions on them that rules and layer groups state."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

AXES = ("framework", "framework_version", "transformers", "type", "device", "python", "os")
VERSIONS = ("framework_version", "transformers", "python")
Conditions = Mapping[Any, str]  # axis -> the values that are meant
Combination = Mapping[str, str]  # axis -> value; an axis that is not there may have any


@cache
def fits(axis: str, value: str, wanted: str) -> bool:
    """Whether a value meets a condition: a range of versions, or words separated by commas.

    The word `gpu` stands for every CUDA.
    """
    if axis in VERSIONS:
        try:
            return SpecifierSet(wanted, prereleases=True).contains(value)
        except InvalidSpecifier:
            return value == wanted
    words = [word.strip() for word in wanted.split(",")]
    return value in words or (axis == "device" and value.startswith("cu") and "gpu" in words)


def meets(combination: Combination, conditions: Conditions) -> bool:
    """Whether a combination that has every axis meets all conditions."""
    return all(fits(axis, combination[axis], wanted) for axis, wanted in conditions.items())
