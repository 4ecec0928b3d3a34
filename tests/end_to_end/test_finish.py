"""A layer that is finished: what is left out is gone with its rows, the rest has byte code and one time."""

import marshal
import os
import subprocess
import sys
from pathlib import Path
from types import CodeType

import pytest

PROGRAM = Path(__file__).parents[2] / "images" / "finish.py"
EPOCH = 1577836800
SITE = Path("opt/venv/lib/python3.11/site-packages")


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A layer with one package: it has tests, headers and a static library."""
    site = tmp_path / SITE
    for name in ("kept.py", "tests/test_a.py", "deep/tests/b.py", "include/a.h", "lib/a.a", "lib/a.so"):
        file = site / "package" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x = 1")
    (site / "package" / "lib" / "link.a").symlink_to("nowhere")
    names = [str(file.relative_to(site)) for file in site.rglob("*") if not file.is_dir()]
    record = site / "package-1.0.dist-info" / "RECORD"
    record.parent.mkdir()
    rows = [f"{name},sha256=0,{len(name)}" for name in sorted(names)]
    rows += ['"package/a, with a comma.py",,', f"{record.parent.name}/RECORD,,", ""]
    record.write_text("\n".join(rows))
    (site / "package" / "a, with a comma.py").touch()
    return tmp_path


def finish(layer: Path, patterns: str = "") -> subprocess.CompletedProcess[str]:
    """The program, as a stage runs it."""
    environ = {**os.environ, "LEFT_OUT": patterns, "SOURCE_DATE_EPOCH": str(EPOCH)}
    program = [sys.executable, str(PROGRAM), str(layer)]
    return subprocess.run(program, env=environ, text=True, capture_output=True, check=False)


def code(module: Path) -> tuple[bytes, CodeType]:
    """How the byte code of a module is invalidated (PEP 552: bytes 4 to 8), and the code."""
    [file] = module.parent.glob(f"__pycache__/{module.stem}.*.pyc")
    content = file.read_bytes()
    return content[4:8], marshal.loads(content[16:])


def test_what_fits_a_pattern_is_gone_with_its_rows(layer: Path) -> None:
    """Folders at any depth, files, links that lead nowhere; the rest keeps its row as it was."""
    assert finish(layer, "**/tests package/include **/*.a none/of/this").returncode == 0
    package = layer / SITE / "package"
    there = sorted(str(file.relative_to(package)) for file in package.rglob("*") if file.is_file())
    assert [name for name in there if not name.endswith(".pyc")] == [
        "a, with a comma.py",
        "kept.py",
        "lib/a.so",
    ]
    assert (layer / SITE / "package-1.0.dist-info" / "RECORD").read_text().splitlines() == [
        "package/kept.py,sha256=0,15",
        "package/lib/a.so,sha256=0,16",
        '"package/a, with a comma.py",,',
        "package-1.0.dist-info/RECORD,,",
    ]


def test_where_nothing_fits_a_record_keeps_its_bytes(layer: Path) -> None:
    """Also line ends that another tool wrote: a package that is left alone is the one that was published."""
    file = layer / SITE / "package-1.0.dist-info" / "RECORD"
    (layer / SITE / "package" / "lib" / "link.a").unlink()
    rows = [row for row in file.read_bytes().splitlines() if b"link.a" not in row]
    file.write_bytes(b"\r\n".join([*rows, b""]))
    before = file.read_bytes()
    assert finish(layer, "none/of/this").returncode == 0
    assert file.read_bytes() == before


def test_byte_code_goes_by_hash_and_names_the_file_in_the_image(layer: Path) -> None:
    """At any depth: Python 3.7's own `compileall` stops ten folders down."""
    deep = layer / SITE / "package" / "/".join("abcdefghijkl") / "module.py"
    deep.parent.mkdir(parents=True)
    deep.write_text("x = 1")
    assert finish(layer).returncode == 0
    flags, found = code(deep)
    assert flags == b"\3\0\0\0"  # by hash, and checked
    assert found.co_filename == "/" + str(deep.relative_to(layer))


def test_a_module_for_a_newer_python_is_left_as_it_is(layer: Path) -> None:
    """It is told, and the others are compiled."""
    newer = layer / SITE / "package" / "newer.py"
    newer.write_text("def f[:")
    ran = finish(layer)
    assert ran.returncode == 0
    assert ran.stdout == f"/{newer.relative_to(layer)} is left as it is: SyntaxError\n"
    assert not list(newer.parent.glob("__pycache__/newer.*"))
    assert code(newer.with_name("kept.py"))


def test_byte_code_that_cannot_be_written_fails(layer: Path) -> None:
    """As on a full disk: the stage must not go on."""
    (layer / SITE / "package" / "__pycache__").touch()
    ran = finish(layer)
    assert ran.returncode == 1
    assert "__pycache__" in ran.stderr


def test_everything_has_one_time(layer: Path) -> None:
    """Files, folders, links, byte code, and the layer itself."""
    (layer / "opt" / "other").touch()
    assert finish(layer).returncode == 0
    assert {path.lstat().st_mtime for path in (layer, *layer.rglob("*"))} == {EPOCH}
