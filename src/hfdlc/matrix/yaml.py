"""YAML as text values with their positions in the file.

Scalars stay text, because `3.10` is a version and not a number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from hfdlc.errors import Problems, UserError

# The loader of libyaml parses a matrix of 400 cells in 0.01 s; Python's needs 0.1 s.
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """The content of a YAML file, with positions."""

    name: str
    data: Any
    places: Mapping[Path_, tuple[int, int]]

    def where(self, path: Path_) -> str:
        """`FILE:LINE:COLUMN` of a value, or of the innermost value around it that is in the file."""
        while path not in self.places:
            path = path[:-1]
        line, column = self.places[path]
        return f"{self.name}:{line}:{column}"


def read(file: Path) -> Document:
    """Read a YAML file.

    Raises UserError if it cannot be read or parsed, Problems for duplicate keys.
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot be read: {error}", location=file.name, hint="run this in a clone of the repository"
        ) from error
    try:
        node = yaml.compose(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{file.name}:{mark.line + 1}:{mark.column + 1}" if mark else file.name
        raise UserError(f"not valid YAML: {error.problem}", location=where) from error
    except yaml.YAMLError as error:  # characters that YAML does not allow
        why = " ".join(str(error).split())
        raise UserError(f"not valid YAML: {why}", location=file.name) from error
    reader = _Reader(file.name)
    data = reader.value(node, ()) if node else {}
    if reader.problems:
        raise Problems(reader.problems)
    return Document(file.name, data, {(): (1, 1), **reader.places})


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[Path_, tuple[int, int]] = {}
        self.problems: list[UserError] = []

    def value(self, node: Node, path: Path_) -> Any:
        self.places.setdefault(path, _place(node))
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        is_null = node.style is None and node.value in ("", "~", "null")
        return None if is_null else node.value

    def _mapping(self, node: MappingNode, path: Path_) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                line, column = _place(key)
                where = f"{self.name}:{line}:{column}"
                hint = "put quotes around a value that begins with { or ["
                self.problems.append(UserError("a key must be text", location=where, hint=hint))
                continue
            if key.value in found:
                first = self.places[(*path, key.value)]
                line, column = _place(key)
                self.problems.append(
                    UserError(
                        f"duplicate key {key.value!r} (first on line {first[0]})",
                        location=f"{self.name}:{line}:{column}",
                        hint="keep one of them",
                    )
                )
                continue
            self.places[(*path, key.value)] = _place(key)
            found[key.value] = self.value(value, (*path, key.value))
        return found


def _place(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1
