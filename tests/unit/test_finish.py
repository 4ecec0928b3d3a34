"""`finish`: files are removed with their RECORD rows, modules are compiled, and all files get one time."""

import importlib.machinery
import importlib.util
import marshal
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import CodeType, ModuleType

import pytest

PROGRAM = Path(__file__).parents[2] / "image" / "finish.py"
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


def finish(layer: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The program, as a stage runs it; beside it lies one that packs nothing."""
    program = layer.with_name(f"{layer.name}-programs") / "finish"
    program.parent.mkdir(exist_ok=True)
    shutil.copy(PROGRAM, program)
    program.with_name("pack").write_text("#!/bin/sh\n")
    program.with_name("pack").chmod(0o755)
    environ = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
    argv = [sys.executable, str(program), str(layer), *options]
    return subprocess.run(argv, env=environ, text=True, capture_output=True, check=False)


def code(module: Path) -> tuple[bytes, CodeType]:
    """How the byte code of a module is invalidated (PEP 552: bytes 4 to 8), and the code."""
    [file] = module.parent.glob(f"__pycache__/{module.stem}.*.pyc")
    content = file.read_bytes()
    return content[4:8], marshal.loads(content[16:])


def test_files_of_a_pattern_are_removed_with_their_record_rows(layer: Path) -> None:
    """Folders at any depth, files, links that lead nowhere; the rest keeps its row as it was."""
    assert finish(layer, "--remove", "**/tests", "package/include", "**/*.a", "none/of/this").returncode == 0
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


def test_record_without_removed_files_is_unchanged(layer: Path) -> None:
    """Also line ends that another tool wrote: a package that is left alone is the one that was published."""
    file = layer / SITE / "package-1.0.dist-info" / "RECORD"
    (layer / SITE / "package" / "lib" / "link.a").unlink()
    rows = [row for row in file.read_bytes().splitlines() if b"link.a" not in row]
    file.write_bytes(b"\r\n".join([*rows, b""]))
    before = file.read_bytes()
    assert finish(layer, "--remove", "none/of/this").returncode == 0
    assert file.read_bytes() == before


def test_byte_code_is_checked_by_hash_and_names_the_path_in_the_image(layer: Path) -> None:
    """At any depth: Python 3.7's own `compileall` stops ten folders down."""
    deep = layer / SITE / "package" / "/".join("abcdefghijkl") / "module.py"
    deep.parent.mkdir(parents=True)
    deep.write_text("x = 1")
    assert finish(layer).returncode == 0
    flags, found = code(deep)
    assert flags == b"\3\0\0\0"  # by hash, and checked
    assert found.co_filename == "/" + str(deep.relative_to(layer))


def test_module_that_does_not_compile_is_kept_and_reported(layer: Path) -> None:
    """The others are compiled."""
    newer = layer / SITE / "package" / "newer.py"
    newer.write_text("def f[:")
    ran = finish(layer)
    assert ran.returncode == 0
    assert ran.stdout == f"/{newer.relative_to(layer)} is not compiled: SyntaxError\n"
    assert not list(newer.parent.glob("__pycache__/newer.*"))
    assert code(newer.with_name("kept.py"))


def test_unwritable_byte_code_is_an_error(layer: Path) -> None:
    """As on a full disk: the stage must not go on."""
    (layer / SITE / "package" / "__pycache__").touch()
    ran = finish(layer)
    assert ran.returncode == 1
    assert "__pycache__" in ran.stderr


def test_all_files_have_the_same_time(layer: Path) -> None:
    """Files, folders, links, byte code, and the layer itself."""
    (layer / "opt" / "other").touch()
    assert finish(layer).returncode == 0
    assert {path.lstat().st_mtime for path in (layer, *layer.rglob("*"))} == {EPOCH}


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """The program, imported."""
    spec = importlib.util.spec_from_file_location("finish", PROGRAM)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        ("**/tests", ["tests", "a/tests", "a/b/tests"], ["a/tests.py", "atests", "tests/a"]),
        ("a/*.py", ["a/b.py", "a/.py"], ["a/b/c.py", "a/b.pyc", "b/a/b.py"]),
        ("a/**/*.py", ["a/b.py", "a/b/c/d.py"], ["a.py", "b/a/c.py"]),
        ("a/[!bc]*/d", ["a/x/d", "a/xb/d"], ["a/b/d", "a/d", "a/x/y/d"]),
        ("a+?.so", ["a+1.so"], ["aa1.so", "a+12.so"]),
        ("one two/*", ["one", "two/a"], ["one two/a", "two"]),
        ("", [], ["", "a"]),
    ],
)
def test_pattern_matches_as_pathlib_does(
    program: ModuleType, pattern: str, fits: list[str], does_not: list[str]
) -> None:
    """As pathlib's, without a walk for each."""
    matches = program.matcher(pattern.split())
    assert all(map(matches, fits))
    assert not any(map(matches, does_not))


def test_module_whose_pycache_is_removed_is_kept_and_not_compiled(layer: Path) -> None:
    assert finish(layer, "--remove", "package/deep/**/__pycache__").returncode == 0
    package = layer / SITE / "package"
    assert (package / "deep/tests/b.py").is_file()
    assert not list(package.glob("deep/**/__pycache__"))
    assert code(package / "kept.py")


def library(*behind: bytes) -> bytes:
    """An ELF of 64 bits: loaded content, then symbols, their names, and the names of sections."""
    content, symbols, names = b"loaded" * 100, b"symbols" * 50, b"names" * 50
    texts = b"\0.text\0.symtab\0.strtab\0.shstrtab\0"
    parts = [content, symbols, names, *behind, texts]
    offsets = [64 + sum(map(len, parts[:number])) for number in range(len(parts))]
    rows = [(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)]
    kinds = [(1, 1, 2), (7, 2, 0), (15, 3, 0), *[(1, 1, 2)] * len(behind), (23, 3, 0)]
    for (name, kind, flags), offset, part in zip(kinds, offsets, parts, strict=True):
        rows.append((name, kind, flags, 0, offset, len(part), 3 if kind == 2 else 0, 0, 1, 0))
    where = 64 + sum(map(len, parts))
    fields = (3, 62, 1, 0, 0, where, 0, 64, 56, 0, 64, len(rows), len(rows) - 1)
    head = b"\x7fELF\2\1".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", *fields)
    return head + b"".join(parts) + b"".join(struct.pack("<IIQQQQIIQQ", *row) for row in rows)


def test_removing_symbols_keeps_the_offsets_of_loaded_segments(layer: Path) -> None:
    """The record does not tell the hash and the size that the library had."""
    file = layer / SITE / "package/lib/a.so"
    whole = library()
    file.write_bytes(whole)
    assert finish(layer, "--strip", "**/*.so").returncode == 0
    cut = file.read_bytes()
    assert b"symbols" not in cut
    assert b"names" not in cut
    assert cut[64:664] == whole[64:664] == b"loaded" * 100
    record = (layer / SITE / "package-1.0.dist-info/RECORD").read_text().splitlines()
    assert "package/lib/a.so,," in record
    again = file.stat().st_size
    assert finish(layer, "--strip", "**/*.so").returncode == 0
    assert file.stat().st_size == again


@pytest.mark.parametrize(
    "content",
    [library(b"loaded behind"), b"", b"text", b"\x7fELF\1\1" + bytes(90)],
    ids=["moved", "", "text", "32"],
)
def test_library_with_loaded_data_behind_symbols_is_unchanged(layer: Path, content: bytes) -> None:
    """Where something is loaded from behind its symbols, or it is no library of 64 bits."""
    file = layer / SITE / "package/lib/a.so"
    file.write_bytes(content)
    assert finish(layer, "--strip", "**/*.so").returncode == 0
    assert file.read_bytes() == content


def test_a_real_library_works_without_its_symbols(program: ModuleType, tmp_path: Path) -> None:
    """One of Python's own modules, imported after."""
    import _struct

    file = tmp_path / Path(_struct.__file__).name
    shutil.copy(_struct.__file__, file)
    file.chmod(0o644)
    before = file.stat().st_size
    if program.strip_symbols(file):
        assert file.stat().st_size < before
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import _struct; print(_struct.__file__)"
    output = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout
    assert output.strip() == str(file)


def test_finished_layer_is_packed(layer: Path) -> None:
    """By the program beside it, which fails the stage where it fails."""
    assert finish(layer).returncode == 0
    program = layer.with_name(f"{layer.name}-programs") / "pack"
    program.unlink()
    program.mkdir()
    argv = [sys.executable, str(program.with_name("finish")), str(layer)]
    ended = subprocess.run(
        argv, env={**os.environ, "SOURCE_DATE_EPOCH": "1"}, capture_output=True, check=False
    )
    assert ended.returncode == 1
