"""What is left out of packages: gone with its rows in their records, and nothing else."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of packages: one with tests, headers and a static library."""
    for name in ("kept.py", "tests/test_a.py", "deep/tests/b.py", "include/a.h", "lib/a.a", "lib/a.so"):
        file = tmp_path / "package" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / "package" / "lib" / "link.a").symlink_to("nowhere")
    names = [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if not file.is_dir()]
    record = tmp_path / "package-1.0.dist-info" / "RECORD"
    record.parent.mkdir()
    rows = [f"{name},sha256=0,{len(name)}" for name in sorted(names)]
    rows += ['"package/a, with a comma.py",,', f"{record.parent.name}/RECORD,,", ""]
    record.write_text("\n".join(rows))
    (tmp_path / "package" / "a, with a comma.py").touch()
    return tmp_path


def slim(site: Path, patterns: str) -> tuple[list[str], str]:
    """What is there afterwards, and what the record says."""
    spec = importlib.util.spec_from_file_location("slim", ROOT / "images" / "slim.py")
    assert spec
    assert spec.loader
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    program.main([str(site)], patterns.split())
    package = site / "package"
    there = sorted(str(file.relative_to(package)) for file in package.rglob("*") if not file.is_dir())
    return there, (site / "package-1.0.dist-info" / "RECORD").read_text()


def test_what_fits_a_pattern_is_gone_with_its_rows(site: Path) -> None:
    """Folders at any depth, files, links that lead nowhere; the rest keeps its row as it was."""
    there, record = slim(site, "**/tests package/include **/*.a none/of/this")
    assert there == ["a, with a comma.py", "kept.py", "lib/a.so"]
    assert record.splitlines() == [
        "package/kept.py,sha256=0,15",
        "package/lib/a.so,sha256=0,16",
        '"package/a, with a comma.py",,',
        "package-1.0.dist-info/RECORD,,",
    ]


def test_where_nothing_fits_a_record_keeps_its_bytes(site: Path) -> None:
    """Also line ends that another tool wrote: a package that is left alone is the one that was published."""
    file = site / "package-1.0.dist-info" / "RECORD"
    (site / "package" / "lib" / "link.a").unlink()
    rows = [row for row in file.read_bytes().splitlines() if b"link.a" not in row]
    file.write_bytes(b"\r\n".join([*rows, b""]))
    before = file.read_bytes()
    slim(site, "none/of/this")
    assert file.read_bytes() == before
