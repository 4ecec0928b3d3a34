"""The archives of a training job: files, and links as their content."""

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from hfdlc.errors import HfdlcError
from hfdlc.sagemaker import archive, training

if TYPE_CHECKING:
    from docker.models.containers import Container

MODEL = "/opt/ml/model"
Change = Callable[[Path], None]


class Folder:
    """A folder of this machine, sent as an engine sends that of a container: `docker cp`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get_archive(self, path: str) -> tuple[Iterator[bytes], dict[str, str]]:
        """The archive, in small pieces."""
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            tar.add(self.folder / path.removeprefix(MODEL).lstrip("/"), Path(path).name)
        data = content.getvalue()
        return (data[at : at + 1000] for at in range(0, len(data), 1000)), {}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder with two files."""
    folder = tmp_path / "model"
    (folder / "checkpoint-3").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "checkpoint-3" / "model.safetensors").write_text("weights")
    return folder


def packed(folder: Path) -> dict[str, str]:
    """The files of the archive that is made of a folder."""
    output = folder.with_name("model.tar.gz")
    archive.write(cast("Container", Folder(folder)), MODEL, output)
    with tarfile.open(output) as tar:
        members = tar.getmembers()
        assert all(member.isfile() or member.isdir() for member in members)
        files = {each.name: tar.extractfile(each) for each in members if each.isfile()}
        return {name: file.read().decode() for name, file in files.items() if file}


def test_files_are_at_the_root_of_the_archive(model: Path) -> None:
    assert packed(model) == {"config.json": "{}", "checkpoint-3/model.safetensors": "weights"}


@pytest.mark.parametrize(
    "link",
    [
        lambda at: at.symlink_to("checkpoint-3/model.safetensors"),
        lambda at: at.symlink_to(f"{MODEL}/checkpoint-3/model.safetensors"),
        lambda at: at.symlink_to("checkpoint-3/../latest/model.safetensors"),
        lambda at: at.hardlink_to(at.with_name("checkpoint-3") / "model.safetensors"),
    ],
    ids=["relative", "absolute", "through another link", "hard"],
)
def test_a_link_becomes_its_content(model: Path, link: Change) -> None:
    """The archive can be unpacked elsewhere, also by what refuses links."""
    (model / "latest").symlink_to("checkpoint-3")
    link(model / "model.safetensors")
    found = packed(model)
    assert found["model.safetensors"] == "weights"
    assert found["latest/model.safetensors"] == "weights"


def test_links_in_a_linked_folder_become_their_content(model: Path) -> None:
    """As in the cache of huggingface_hub."""
    (model / "blobs").mkdir()
    (model / "blobs" / "1a").write_text("blob")
    (model / "snapshots" / "main").mkdir(parents=True)
    (model / "snapshots" / "main" / "tokenizer.json").symlink_to("../../blobs/1a")
    (model / "current").symlink_to("snapshots/main")
    assert packed(model)["current/tokenizer.json"] == "blob"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/opt/ml/checkpoints/last", "link -> /opt/ml/checkpoints/last: the link leads out of /opt/ml/model"),
        ("/opt/ml/model-2/last", "leads out of"),
        ("../checkpoints/last", "leads out of"),
        ("checkpoint-3/../../last", "leads out of"),
        ("nothing", "link -> nothing: the link leads to no file"),
        ("link", "leads to itself"),
        (".", "contains it"),
        ("checkpoint-3", "contains it"),
    ],
)
def test_a_link_that_cannot_be_followed_is_an_error(model: Path, target: str, message: str) -> None:
    """It names the link, and nothing is written."""
    (model / "link").symlink_to(target)
    (model / "checkpoint-3" / "up").symlink_to("..")
    if target != "checkpoint-3":
        (model / "checkpoint-3" / "up").unlink()
    with pytest.raises(HfdlcError, match=message):
        packed(model)
    assert list(model.parent.iterdir()) == [model]


def test_a_named_pipe_is_an_error(model: Path) -> None:
    os.mkfifo(model / "pipe")
    with pytest.raises(HfdlcError, match="/opt/ml/model/pipe: neither a file nor a folder"):
        packed(model)


def test_an_empty_folder_writes_no_archive(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    output = tmp_path / "output.tar.gz"
    assert archive.write(cast("Container", Folder(tmp_path / "data")), MODEL, output) == 0
    assert not output.exists()


@pytest.mark.parametrize(
    ("model", "output"), [("model.tar.gz", "output.tar.gz"), ("output.tar.gz", "output-output.tar.gz")]
)
def test_the_output_is_beside_the_model(model: str, output: str) -> None:
    """And never the same file."""
    assert training.output_of(Path("folder") / model) == Path("folder") / output
