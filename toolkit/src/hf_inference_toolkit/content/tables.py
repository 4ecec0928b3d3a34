"""CSV and NumPy's .npy format."""

import csv
import io
import re
import sys
from typing import Callable, List, Optional, Tuple

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import Answer
from hf_inference_toolkit.content.payload import check_value, too_many, write_json
from hf_inference_toolkit.errors import RequestError, first_line

# The first row is a header if it contains one of these names of inputs and parts of inputs.
COLUMNS = (
    "inputs",
    "text",
    "text_pair",
    "question",
    "context",
    "query",
    "table",
    "sequence",
    "source_sentence",
)
# Excel writes semicolons in locales with a decimal comma, and tabs for "Text".
DELIMITERS = ",;\t"
_NAME = re.compile(r"[A-Za-z_]\w*\Z")
# The default is 128 KB; the size of a body is limited already.
csv.field_size_limit(2**31 - 1)


def read_csv(text: str) -> List[object]:
    """The inputs in a CSV body.

    With a header, an input is the value of the column `inputs` (or of the only column), otherwise an object. Without
    a header, it is a text or a list of numbers. A first column without a name is an index and is ignored.
    """
    delimiter, header = _header(text)
    rows = _rows(text, delimiter)
    if not rows:
        raise RequestError("malformed", "the body has no rows")
    if header is None and _is_header(rows):
        header = [cell.strip() for cell in rows[0]]
    if header is None:
        return _without_header(rows, text)
    rows = rows[1:]
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise RequestError(
                "malformed",
                "row {} has {} cells; the first row was read as the header, and has {}: {}".format(
                    number, len(row), len(header), ", ".join(header)[:200]
                ),
            )
    if header[0] == "" and len(header) > 1:
        header, rows = header[1:], [row[1:] for row in rows]
    if len(header) == 1:
        return [row[0] for row in rows]
    if "inputs" in header:
        raise RequestError(
            "unsupported_value",
            "the first row was read as the header: {}; with 'inputs' there must be no other column".format(
                ", ".join(header)[:200]
            ),
        )
    return [dict(zip(header, row)) for row in rows]


def _rows(text: str, delimiter: str = ",") -> List[List[str]]:
    rows: List[List[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            if len(row) > limits.CSV_COLUMNS:
                raise too_many("columns", limits.CSV_COLUMNS)
            if row:
                rows.append(row)
            if len(rows) > limits.ITEMS:
                raise too_many("rows", limits.ITEMS)
    except csv.Error as problem:
        raise RequestError("malformed", "the body is not CSV: {}".format(problem)) from None
    return rows


def _header(text: str) -> Tuple[str, Optional[List[str]]]:
    """The delimiter, and the first row if it contains the name of a known column."""
    first = re.split("[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    for delimiter in DELIMITERS:
        try:
            cells = next(iter(_rows(first, delimiter)), [])
        except RequestError:
            continue
        names = [cell.strip() for cell in cells]
        names = [name.lower() if name.lower() in COLUMNS else name for name in names]
        if set(names) & set(COLUMNS):
            return delimiter, names
    return ",", None


def _is_header(rows: List[List[str]]) -> bool:
    """Whether the first row looks like column names, which user code may know."""
    names = [cell.strip() for cell in rows[0]]
    if names[:1] == [""]:
        names = names[1:]
    return (
        len(rows) > 1
        and len(names) > 1
        and len(set(names)) == len(names)
        and all(_NAME.match(name) for name in names)
        and {len(row) for row in rows} == {len(rows[0])}
    )


def _without_header(rows: List[List[str]], text: str) -> List[object]:
    if all(len(row) == 1 for row in rows):
        return [row[0] for row in rows]
    numbers = _numbers(rows)
    if numbers is not None:
        return numbers
    if '"' not in text:
        # Lines of prose: their commas are not delimiters.
        return [line for line in re.split("\r\n|\r|\n", text) if line]
    first = next(row for row in rows if len(row) > 1)
    raise RequestError(
        "unsupported_value",
        "the CSV has no header with a known column ({}), and a row has {} cells: {}. Add a header, or quote "
        "texts that contain commas".format(", ".join(COLUMNS), len(first), " | ".join(first)[:200]),
    )


def _numbers(rows: List[List[str]]) -> Optional[List[object]]:
    try:
        numbers: List[object] = [[float(cell) for cell in row] for row in rows]
    except ValueError:
        return None
    check_value(numbers)
    return numbers


def write_csv(value: object) -> bytes:
    """One row for each object, list or value. The keys of objects are the header. Nested values are JSON."""
    value = _simple(value)
    rows: List[Answer] = [_simple(row) for row in value] if isinstance(value, list) else [value]
    while rows and isinstance(rows[0], list) and isinstance(rows[0][0] if rows[0] else None, (dict, list)):
        rows = [inner for row in rows for inner in row]
    out = io.StringIO(newline="")
    table = csv.writer(out, lineterminator="\n")
    if rows and all(isinstance(row, dict) for row in rows):
        names: List[object] = []
        for row in rows:
            names.extend(name for name in row if name not in names)
        _write_row(out, table.writerow, names)
        for row in rows:
            _write_row(out, table.writerow, [row.get(name) for name in names])
    else:
        for row in rows:
            _write_row(out, table.writerow, row if isinstance(row, list) else [row])
    return out.getvalue().encode("utf-8", "backslashreplace")


def _write_row(out: io.StringIO, write: Callable[[List[object]], object], row: List[object]) -> None:
    cells = [_cell(cell) for cell in row]
    if cells == [""] or any(isinstance(cell, str) and "\r" in cell for cell in cells):
        # csv does not quote lone carriage returns (before Python 3.10) and rows with one empty cell.
        out.write(",".join('"{}"'.format(str(cell).replace('"', '""')) for cell in cells) + "\n")
    else:
        write(cells)


def _simple(value: object) -> Answer:
    """Arrays, tensors and data frames as lists."""
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return value.to_dict("records")
    if isinstance(value, (set, frozenset)):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") else value


def _cell(value: object) -> object:
    value = _simple(value)
    if isinstance(value, (dict, list, tuple)):
        return write_json(value).decode("utf-8")
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    return value


def read_npy(body: bytes) -> object:
    """The array as nested lists. Pickles are refused, because loading one runs code."""
    import numpy

    try:
        _check_npy_header(body)
        stream = io.BytesIO(body)
        array = numpy.load(stream, allow_pickle=False)
        if stream.read(1):
            raise RequestError("malformed", "the body is longer than the array in its .npy header")
        if array.dtype.kind == "U" and array.size:
            codes = array.reshape(-1).view(array.dtype.str[0] + "u4")
            if codes.max() > sys.maxunicode:
                raise RequestError("malformed", "the .npy array contains numbers that are not characters")
        value = array.tolist()
    except (MemoryError, RequestError):
        raise
    except Exception as problem:  # numpy raises many kinds for a broken header
        raise RequestError(
            "malformed", "the body is not an .npy array: {}".format(first_line(problem))
        ) from None
    check_value(value)
    return value


def _check_npy_header(body: bytes) -> None:
    """Reject an array whose header promises more data than the body has, or too many nested lists."""
    from numpy.lib import format as npy

    stream = io.BytesIO(body)
    version = npy.read_magic(stream)
    width = 2 if version == (1, 0) else 4
    if int.from_bytes(body[stream.tell() : stream.tell() + width], "little") > limits.NPY_HEADER:
        raise too_many("bytes of .npy header", limits.NPY_HEADER)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, _, kind = read(stream)
    except MemoryError:
        # What Python before 3.9 raises for more than 100 nested brackets. The header is short.
        raise RequestError("malformed", "the brackets in the .npy header are nested too deeply") from None
    if kind.kind not in "biufUS" or not kind.itemsize:
        raise RequestError("malformed", "an .npy array must contain numbers or text, not {}".format(kind))
    size = lists = 1
    for length in shape:
        lists += size
        size *= max(1, length)
    if lists > limits.CONTAINERS:
        raise too_many("lists", limits.CONTAINERS)
    if size * kind.itemsize > len(body):
        raise RequestError(
            "malformed", "the body is smaller than the shape in its .npy header: {}".format(str(shape)[:100])
        )


def write_npy(value: object) -> Optional[bytes]:
    """The value as an .npy file. None if it is not an array of numbers."""
    import numpy

    if not isinstance(value, numpy.ndarray):
        # A tensor that has a gradient, or is on a GPU, is not converted by NumPy.
        value = _simple(value)
    try:
        array = numpy.asarray(value)
    except ValueError:
        return None
    if array.dtype.kind not in "biuf":
        return None
    out = io.BytesIO()
    numpy.save(out, array, allow_pickle=False)
    return out.getvalue()
