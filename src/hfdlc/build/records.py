"""What builds leave behind, a record a cell: what the image was made from, how large it is."""

import json
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, ValidationError

from hfdlc.matrix.cells import Cell
from hfdlc.process import say
from hfdlc.state import State, write_whole


class Record(BaseModel):
    """The last build of a cell into an engine of this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: str
    image: str  # the image's digest
    date: str  # ISO, UTC
    inputs: dict[str, str]
    layers: dict[str, int]  # address (see graph) -> bytes, uncompressed
    below: int  # bytes of the base


def last(cell: Cell, state: State) -> Record | None:
    """The record of the cell's last build; one that cannot be read is set aside, and said."""
    file = state.root / "builds" / f"{cell.repository}-{cell.tag}.json"
    try:
        return Record.model_validate_json(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, UnicodeDecodeError):
        aside = file.with_suffix(".set-aside")
        file.replace(aside)
        say(f"{file}: is damaged or of another version: set aside as {aside.name}")
        return None


def keep(cell: Cell, record: Record, state: State) -> None:
    """Write the cell's record."""
    file = state.root / "builds" / f"{cell.repository}-{cell.tag}.json"
    write_whole(file, json.dumps(record.model_dump(), indent=1) + "\n")


def sizes(records: Mapping[str, Record | None]) -> dict[str, int]:
    """The bytes of every layer that a build has shown, by its address."""
    return {address: size for record in records.values() if record for address, size in record.layers.items()}
