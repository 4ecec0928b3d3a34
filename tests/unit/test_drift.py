"""`hfdlc check`: all generated files, offline."""

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from hfdlc import project
from hfdlc.generated import ci, drift
from matrices import write

ROOT = Path(__file__).parents[2]


def test_committed_files_are_current() -> None:
    """Dockerfiles, locks, the list of images, the schema: this is `hfdlc check` on the repository."""
    assert list(drift.differences(project.find(ROOT))) == []


def test_check_reports_edited_missing_and_stray_files(tmp_path: Path) -> None:
    """An edited file by its diff, a missing lock by its command, a stray folder by what to do."""
    write(tmp_path, ("python: 3.10", "python: 3.11"))
    (tmp_path / "templates").symlink_to(ROOT / "templates")
    here = project.find(tmp_path)
    for path, text in {**drift.dockerfiles(here, here.cells), **drift.pages(here), **ci.files(here)}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    edited = tmp_path / here.default.folder / "Dockerfile"
    edited.write_text(edited.read_text().replace("EXPOSE 8080", "EXPOSE 9090"))
    stray = tmp_path / "images" / "huggingface-pytorch-inference" / "1.0" / "Dockerfile"
    stray.parent.mkdir()
    stray.write_text("FROM scratch\n")
    (tmp_path / here.default.folder / "peft.lock").touch()
    found = list(drift.differences(here))
    output = "\n".join(found)
    assert "-EXPOSE 9090\n+EXPOSE 8080" in output
    assert f"toolkit.lock: the lock file is missing\n  hint: hfdlc lock {here.default.id}" in output
    assert "images/huggingface-pytorch-inference/1.0: no cell of the matrix has this folder" in output
    assert f"{here.default.folder}/peft.lock: the cell has no such layer group\n  hint: hfdlc lock" in output
    assert output.count("@@") == 2, "nothing else differs"
    assert sum("\n  hint: remove the folder" in one for one in found) == 1, "one entry for a folder"


def test_committed_matrix_fits_the_schema() -> None:
    """An editor that reads it as ordinary YAML, with its numbers and dates, finds nothing wrong."""
    content = YAML(typ="safe", pure=True).load((ROOT / "matrix.yaml").read_text())
    plain = json.loads(json.dumps(content, default=str))
    jsonschema.validate(plain, json.loads(drift.schema()))
    plain["releases"][0]["pyhton"] = 3.11
    with pytest.raises(jsonschema.ValidationError, match="pyhton"):
        jsonschema.validate(plain, json.loads(drift.schema()))


def test_the_schema_knows_the_keys_of_the_file() -> None:
    """Editors complete what the reader accepts."""
    schema = json.loads(drift.schema())
    assert {"releases", "rules", "frameworks", "bases", "types"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False
