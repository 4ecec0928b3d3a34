"""README.md agrees with the code: each fact that both state is compared."""

import re
from pathlib import Path

import pytest

from hf_inference_toolkit import errors, limits, settings
from hf_inference_toolkit.http.metrics import Metrics
from hf_inference_toolkit.runtimes.base import Engine

README = Path(__file__).parent.parent / "README.md"
if not README.is_file():
    pytest.skip("an installed toolkit has no README.md", allow_module_level=True)
TEXT = README.read_text(encoding="utf-8")


def rows(section, columns):
    """The cells of the table below a heading, without its header."""
    body = re.split(r"\n## ", TEXT.split("\n## {}\n".format(section), 1)[1], maxsplit=1)[0]
    tables = re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE)
    for table in tables:
        lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
        if lines[0] == columns:
            return lines[2:]
    raise AssertionError("section {} has no table with the columns {}".format(section, columns))


def default(variable):
    """The value of a variable that is not set, as the table writes it."""
    shown = {row[0]: row[1] for row in settings.describe({}, settings.Settings())}[variable.name]
    return shown[len("not set: ") :] if shown.startswith("not set: ") else ""


def test_table_of_variables_is_that_of_settings():
    expected = [
        ["`{}`".format(one.name), "`{}`".format(default(one)) if default(one) else "", one.about]
        for one in settings.VARIABLES
    ]
    assert rows("Environment variables", ["variable", "default", "meaning"]) == expected


def test_table_of_limits_is_that_of_limits():
    expected = [[one.name, "{:,}".format(one.value), one.about] for one in limits.TABLE]
    assert rows("Limits", ["limit", "value", "what is counted"]) == expected


def test_table_of_errors_is_that_of_errors():
    expected = [[str(kind.status), "`{}`".format(code), kind.meaning] for code, kind in errors.TABLE.items()]
    assert rows("Errors", ["status", "code", "meaning"]) == expected


def test_table_of_metrics_names_every_metric():
    """A counter is registered without the suffix that its samples have."""
    metrics = Metrics(*[lambda: 0] * 5, lambda: Engine("none"))
    names = {
        family.name + ("_total" if family.type == "counter" else "") for family in metrics.registry.collect()
    }
    listed = re.findall(
        r"`(\w+)[{`]", " ".join(row[0] for row in rows("Metrics", ["metric", "type", "meaning"]))
    )
    assert sorted(listed) == sorted(names)


def test_relative_links_lead_to_files():
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXT)
    assert targets
    if not (README.parents[1] / "docs").is_dir():  # the toolkit without the rest of the repository
        targets = [target for target in targets if not target.startswith("../")]
    assert [target for target in targets if not (README.parent / target).exists()] == []
