"""The axes of the matrix, and conditions on them, as in rules and layer groups."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

AXES = ("framework", "framework_version", "transformers", "type", "device", "python", "os")
VERSIONS = ("framework_version", "transformers", "python")
Conditions = Mapping[Any, str]  # axis -> a version range, or values separated by commas
Combination = Mapping[str, str]  # axis -> value; a missing axis has any value


@cache
def fits(axis: str, value: str, wanted: str) -> bool:
    """Whether a value meets a condition. The device `gpu` means every CUDA version."""
    if axis in VERSIONS:
        try:
            return SpecifierSet(wanted, prereleases=True).contains(value)
        except InvalidSpecifier:
            return value == wanted
    words = [word.strip() for word in wanted.split(",")]
    return value in words or (axis == "device" and value.startswith("cu") and "gpu" in words)


def meets(combination: Combination, conditions: Conditions) -> bool:
    """Whether a combination with all axes meets all conditions."""
    return all(fits(axis, combination[axis], wanted) for axis, wanted in conditions.items())
