"""Whether another library computes the same as PyTorch."""

from typing import TYPE_CHECKING, List, Sequence

from hf_inference_toolkit.annotations import Arrays

if TYPE_CHECKING:
    import numpy

# The largest accepted difference in float32, relative to the largest number of an output above 1.
FLOAT32 = 1e-4
# In half precision: accepted difference from float32, as a multiple of PyTorch's own in the same precision.
HALF = 2.0
# The spacing of numbers in half precision. PyTorch's own difference may be zero where every output is rounded alike.
SPACING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
# The smallest accepted cosine of a row in int8.
INT8 = 0.99


def fault(dtype: str, exact: Sequence[Arrays], own: Sequence[Arrays], found: Sequence[Arrays]) -> str:
    """The reason why outputs are wrong, or an empty string. One member of each list for each row.

    `exact` is PyTorch in float32, `own` is PyTorch in `dtype`.
    """
    for name in exact[0]:
        right, theirs, ours = ([row[name] for row in rows] for rows in (exact, own, found))
        if any(one.shape != other.shape for one, other in zip(right, ours)):
            return "{} has other shapes than with PyTorch".format(name)
        if dtype == "float32":
            words = _float32_fault(right, ours)
        elif dtype == "int8":
            words = _int8_fault(right, ours)
        else:
            words = _half_fault(dtype, right, theirs, ours)
        if words:
            return "{} differs from PyTorch's by {}".format(name, words)
    return ""


def _float32_fault(exact: List["numpy.ndarray"], found: List["numpy.ndarray"]) -> str:
    limit = FLOAT32 * max(1.0, _largest(exact))
    difference = _largest([one - other for one, other in zip(exact, found)])
    return "" if difference <= limit else "{:.2g}; at most {:.2g} is accepted".format(difference, limit)


def _half_fault(
    dtype: str, exact: List["numpy.ndarray"], own: List["numpy.ndarray"], found: List["numpy.ndarray"]
) -> str:
    limit = HALF * max(_mean_difference(exact, own), SPACING[dtype] * _mean(exact) / 4)
    difference = _mean_difference(exact, found)
    message = "{:.2g} on average; at most {:.2g} is accepted in {}"
    return "" if difference <= limit else message.format(difference, limit, dtype)


def _int8_fault(exact: List["numpy.ndarray"], found: List["numpy.ndarray"]) -> str:
    least = min(cosine(one, other) for one, other in zip(exact, found))
    return "" if least >= INT8 else "a cosine of {:.4f}; at least {} is accepted".format(least, INT8)


def cosine(one: "numpy.ndarray", other: "numpy.ndarray") -> float:
    """The cosine of the angle between two arrays."""
    import numpy

    one, other = one.ravel().astype(numpy.float64), other.ravel().astype(numpy.float64)
    lengths = float(numpy.linalg.norm(one) * numpy.linalg.norm(other))
    return float(one @ other) / lengths if lengths else 1.0


def _largest(arrays: Sequence["numpy.ndarray"]) -> float:
    """The largest absolute value; NaN if there is one."""
    import numpy

    return float(numpy.max([numpy.abs(array).max() for array in arrays]))


def _mean(arrays: Sequence["numpy.ndarray"]) -> float:
    import numpy

    return float(numpy.mean([numpy.abs(array).mean() for array in arrays]))


def _mean_difference(some: Sequence["numpy.ndarray"], others: Sequence["numpy.ndarray"]) -> float:
    return _mean([one - other for one, other in zip(some, others)])
