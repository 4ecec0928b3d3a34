"""Packed layers: the same bytes each time, stored once, and compared with their digests."""

import importlib.util
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
from backports import zstd

from hfdlc.oci.image import digest_of
from hfdlc.oci.store import GZIP, PLAIN, ZSTD, Damaged, LayerStore, StoredLayer, decompressed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """`image/pack.py`, imported."""
    spec = importlib.util.spec_from_file_location("pack", ROOT / "image/pack.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A folder that will be `/`: files, links of both kinds, a long name, more than a piece of content."""
    site = tmp_path / "layer" / "opt" / "site"
    site.mkdir(parents=True)
    (site / "large").write_bytes(bytes(range(256)) * 20_000)
    (site / "link").symlink_to("large")
    (site / "same").hardlink_to(site / "large")
    (site / ("long" * 40)).mkdir()
    (site / ("long" * 40) / "é").write_text("text")
    return tmp_path / "layer"


@pytest.fixture
def layers(tmp_path: Path) -> LayerStore:
    """An empty store."""
    return LayerStore(tmp_path / "store")


def packed(program: ModuleType, source: Path, layers: LayerStore, *names: str) -> StoredLayer:
    """What the program makes of a folder or an archive, taken."""
    folder = source.with_name("packed")
    program.main(source, folder)
    taken = layers.add(folder, *names)
    assert taken
    return taken


def archive(folder: Path) -> bytes:
    """What a packed layer holds."""
    return zstd.decompress((folder / "layer.tar.zst").read_bytes())


def test_packed_layer_is_sorted_and_owned_by_root(program: ModuleType, layer: Path, tmp_path: Path) -> None:
    """`layer.json` has both digests and the size."""
    program.main(layer, tmp_path / "out")
    content, output = archive(tmp_path / "out"), json.loads((tmp_path / "out/layer.json").read_text())
    assert output["diff_id"] == digest_of(content)
    blob = (tmp_path / "out/layer.tar.zst").read_bytes()
    assert (output["digest"], output["size"]) == (digest_of(blob), len(blob))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == sorted(
            str(path.relative_to(layer)) for path in layer.rglob("*")
        )
        assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {
            (0, 0, "", "")
        }
        large, same = tar.extractfile("opt/site/large"), tar.extractfile("opt/site/same")
        assert large
        assert same
        assert large.read() == same.read() == bytes(range(256)) * 20_000


def test_packed_bytes_do_not_depend_on_the_number_of_cores(
    program: ModuleType, layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines give the same digest."""
    blobs = set()
    for cores in (1, 2, 7):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        program.main(layer, tmp_path / str(cores))
        blobs.add((tmp_path / str(cores) / "layer.tar.zst").read_bytes())
    assert len(blobs) == 1


def test_packing_an_archive_keeps_its_bytes(program: ModuleType, layer: Path, tmp_path: Path) -> None:
    """A base's layer keeps its digest."""
    file = tmp_path / "layer.tar"
    with tarfile.open(file, "w") as tar:
        tar.add(layer, "there")
    program.main(file, tmp_path / "out")
    assert archive(tmp_path / "out") == file.read_bytes()


@pytest.mark.parametrize("package", ["backports.zstd", "uv"])
def test_builder_and_installer_pin_the_same_releases(package: str) -> None:
    """Another zstd may pack the same layer to other bytes, another uv resolve to other locks."""
    project = (ROOT / "pyproject.toml").read_text()
    locks = list(ROOT.glob("images/installer/*/installer.lock"))
    assert locks
    for lock in locks:
        lines = lock.read_text().splitlines()
        locked = package.replace(".", "-")
        (version,) = [line.split()[0].partition("==")[2] for line in lines if line.startswith(f"{locked}==")]
        assert f'"{package}=={version}"' in project


def test_stored_layer_is_found_by_name_and_by_diff_id(
    program: ModuleType, layer: Path, layers: LayerStore
) -> None:
    """So that it is compressed once, ever."""
    taken = packed(program, layer, layers, "one", "two")
    assert layers.get("one") == layers.get("two") == taken
    as_archive = StoredLayer(taken.diff_id, taken.diff_id, 1, PLAIN)
    assert layers.compressed(as_archive, ZSTD, Path("nowhere")) == taken
    assert layers.get("three") is None


def test_incomplete_layer_is_not_stored(
    program: ModuleType, layer: Path, layers: LayerStore, tmp_path: Path
) -> None:
    """BuildKit may still be writing it."""
    folder = tmp_path / "out"
    assert layers.add(folder, "one") is None
    program.main(layer, folder)
    blob, output = folder / "layer.tar.zst", folder / "layer.json"
    whole, text = blob.read_bytes(), output.read_text()
    blob.write_bytes(whole[:-1])
    assert layers.add(folder, "one") is None
    blob.write_bytes(whole)
    output.write_text(text[:-2])
    assert layers.add(folder, "one") is None
    output.write_text(text)
    assert layers.add(folder, "one")


@pytest.mark.parametrize(
    "spoil", [lambda blob: blob[:-1], lambda blob: b"x" + blob[1:]], ids=["cut", "changed"]
)
def test_damaged_layer_is_set_aside(
    program: ModuleType, layer: Path, layers: LayerStore, spoil: object
) -> None:
    """One that was cut is not known; one that was changed is found when it is read, and set aside."""
    taken = packed(program, layer, layers, "one")
    file = layers.path(taken.digest)
    assert callable(spoil)
    content = spoil(file.read_bytes())
    file.unlink()  # the same file lies where it was packed
    file.write_bytes(content)
    if len(content) != taken.size:
        assert layers.get("one") is None
        assert layers.add(layer.with_name("packed"), "one")
        assert layers.get("one") == taken
        return
    with (
        pytest.raises(Damaged, match=r"is damaged(.|\n)*set aside(.|\n)*hint: run this again"),
        layers.open(taken.digest) as blob,
    ):
        blob.read()
    assert layers.get("one") is None


def test_damaged_record_of_a_layer_is_reported_and_ignored(
    program: ModuleType, layer: Path, layers: LayerStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of another version, or half written by another program."""
    packed(program, layer, layers, "one")
    (note,) = layers.root.glob("known/*/one")
    for text in ("{", "[]", '{"diff_id": "sha256:1"}'):
        note.write_text(text)
        assert layers.get("one") is None
        assert "is damaged: its layer is made again" in capsys.readouterr().err


def test_archive_with_a_wrong_digest_is_not_packed(layers: LayerStore, layer: Path) -> None:
    """What BuildKit wrote of a base is compared with its name, too."""
    digest = digest_of(b"an archive")
    file = layers.path(digest)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"another")
    with pytest.raises(Damaged, match="does not match its digest"):
        layers.compressed(StoredLayer(digest, digest, 7, PLAIN), ZSTD, ROOT)
    assert not file.exists()


def test_gzip_layer_is_made_from_zstd_with_a_fixed_header(
    program: ModuleType, layer: Path, layers: LayerStore
) -> None:
    """The same bytes each time: the gzip header has no time and no name."""
    taken = packed(program, layer, layers)
    made = layers.compressed(taken, GZIP, ROOT)
    assert layers.path(made.digest).read_bytes()[4:10] == b"\0\0\0\0\0\xff"
    with layers.open(made.digest) as blob:
        assert digest_of(decompressed(blob).read()) == taken.diff_id == made.diff_id
    assert layers.compressed(made, ZSTD, ROOT) == made
    assert layers.compressed(made, GZIP, ROOT) == made


def test_pack_program_writes_a_layer(layer: Path, tmp_path: Path) -> None:
    """With two arguments."""
    argv = [sys.executable, str(ROOT / "image/pack.py"), str(layer), str(tmp_path / "out")]
    subprocess.run(argv, check=True)
    assert (tmp_path / "out" / "layer.json").is_file()


def test_blob_that_another_program_keeps_too_is_one_file(
    program: ModuleType, layer: Path, layers: LayerStore, tmp_path: Path
) -> None:
    taken = packed(program, layer, layers)
    own, blobs = layers.path(taken.digest), tmp_path / "blobs"
    other = blobs / taken.digest.replace(":", "/")
    layers.share(taken, blobs)
    other.parent.mkdir(parents=True)
    other.write_bytes(b"not all of it")
    layers.share(taken, blobs)
    assert not own.samefile(other)
    other.write_bytes(own.read_bytes())
    layers.share(taken, blobs)
    layers.share(taken, blobs)
    assert own.samefile(other)
    layers.verify(taken.digest)
