"""Rules: combinations that cannot exist, with reasons."""

import difflib
from collections.abc import Iterator, Mapping, Sequence

from hfdlc.errors import Problems, UserError
from hfdlc.matrix.axes import AXES, Combination, Conditions, fits
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.schema import Matrix, Rule, nearest


def axis(word: str) -> tuple[str, str]:
    """Split `AXIS=VALUE`; raises UserError if it has another form."""
    name, equals, value = word.partition("=")
    if not equals:
        raise UserError(
            f"not AXIS=VALUE: {word!r}", allowed="a cell id, or AXIS=VALUE like framework=tensorflow"
        )
    return name, value


def forbids(rule: Rule, combination: Combination) -> bool:
    """Whether a rule excludes a combination; missing axes are ignored."""
    return all(
        axis in combination and fits(axis, combination[axis], wanted) for axis, wanted in rule.when.items()
    ) and any(
        axis in combination and not fits(axis, combination[axis], wanted)
        for axis, wanted in rule.needs.items()
    )


def check(matrix: Matrix, cells: Sequence[Cell]) -> None:
    """Raise Problems for cells that a rule excludes, rules without effect, and contradictory rules."""
    values = {axis: sorted({cell.axes[axis] for cell in cells}) for axis in AXES}
    problems = [*_broken(matrix, cells), *_idle(matrix, values), *_contradictions(matrix, values)]
    problems += _idle_groups(matrix, cells)
    if problems:
        raise Problems(problems)


def place(matrix: Matrix, rule: Rule) -> str:
    """The line of a rule in matrix.yaml."""
    return matrix.document.where(("rules", matrix.file.rules.index(rule)))


def _broken(matrix: Matrix, cells: Sequence[Cell]) -> Iterator[UserError]:
    for cell in cells:
        for rule in matrix.file.rules:
            if forbids(rule, cell.axes):
                message = f"this rule excludes {cell.id}: {rule.reason}"
                yield UserError(message, location=place(matrix, rule), hint="change the rule or the release")


def _idle(matrix: Matrix, values: Mapping[str, list[str]]) -> Iterator[UserError]:
    for rule in matrix.file.rules:
        for axis, wanted in rule.when.items():
            if not _those(values, axis, {axis: wanted}):
                known = ", ".join(values[axis])
                message = f"matches no cell: no cell has {axis} {wanted!r}{nearest(wanted, values[axis])}"
                yield UserError(f"this rule {message}", location=place(matrix, rule), allowed=known)
                break
        else:
            open_axes = [
                axis
                for axis in rule.needs
                if _those(values, axis, rule.when) - _those(values, axis, rule.needs)
            ]
            if not open_axes:
                needs = ", ".join(f"{axis} {wanted}" for axis, wanted in rule.needs.items())
                message = f"this rule excludes nothing: every combination has {needs}"
                yield UserError(message, location=place(matrix, rule), hint="remove it")


def _idle_groups(matrix: Matrix, cells: Sequence[Cell]) -> Iterator[UserError]:
    for name, group in matrix.file.groups.items():
        if not any(name in cell.groups for cell in cells):
            wanted = ", ".join(f"{axis} {value}" for axis, value in group.when.items())
            where = matrix.document.where(("groups", name, "when"))
            yield UserError(f"no cell has the layer group {name!r}: no cell has {wanted}", location=where)


def _contradictions(matrix: Matrix, values: Mapping[str, list[str]]) -> Iterator[UserError]:
    """Rules of which no value meets both."""
    rules = matrix.file.rules
    for number, rule in enumerate(rules):
        for other in (*rules[:number], *rules[number + 1 :]):
            implied = all(
                axis in rule.when and _those(values, axis, rule.when) <= _those(values, axis, other.when)
                for axis in other.when
            )
            for axis in set(rule.needs) & set(other.needs):
                both = _those(values, axis, rule.needs) & _those(values, axis, other.needs)
                if implied and not both:
                    message = (
                        f"this rule and {place(matrix, other)} contradict each other: no {axis} meets both"
                    )
                    yield UserError(message, location=place(matrix, rule))


def _those(values: Mapping[str, list[str]], axis: str, wanted: Conditions) -> set[str]:
    """The values of an axis that meet a condition."""
    return {value for value in values[axis] if axis not in wanted or fits(axis, value, wanted[axis])}


def why(matrix: Matrix, cells: Sequence[Cell], combination: Combination) -> str:
    """The cells of a combination, else the rule that excludes it, else the nearest cell.

    Raises UserError for an unknown axis.
    """
    for axis in combination:
        if axis not in AXES:
            raise UserError(f"unknown axis {axis!r}{nearest(axis, list(AXES))}", allowed=", ".join(AXES))
    found = [cell.id for cell in cells if all(_has(cell, axis, value) for axis, value in combination.items())]
    if found:
        return "\n".join(found)
    for rule in matrix.file.rules:
        if forbids(rule, combination):
            return f"{place(matrix, rule)}: {rule.reason}"
    words = " ".join(combination.values())
    closest = max(
        cells,
        key=lambda cell: difflib.SequenceMatcher(None, words, " ".join(cell.axes.values())).ratio(),
    )
    return f"no rule excludes this combination, but no release has it; the nearest cell is {closest.id}"


def _has(cell: Cell, axis: str, value: str) -> bool:
    own = cell.axes[axis]
    return fits(axis, own, value) or own == value
