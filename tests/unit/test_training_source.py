"""The source folder of a training job: what is copied, and which folders are refused."""

import errno
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from hfdlc.errors import UserError
from hfdlc.sagemaker import source
from hfdlc.sagemaker.job import CODE, Job, write_archive


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A source folder with a package, requirements and what is not code."""
    files = [
        "train.py", "helpers.py", "requirements.txt", "package/__init__.py", "package/__pycache__/x.pyc",
        ".git/config", "venv/pyvenv.cfg", "venv/lib.py", "data/text.csv", "model.tar.gz",
    ]  # fmt: skip
    for name in files:
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / name).write_text(name)
    return tmp_path / "code"


def test_the_folder_of_the_script_goes_along(folder: Path) -> None:
    """With requirements.txt; without hidden folders, byte code, virtual environments, data and output."""
    found = source.find(folder / "train.py", None, None)
    copied = source.files(found, without=[folder / "data", folder / "model.tar.gz"])
    assert str(found.entry_point) == "train.py"
    assert sorted(copied) == ["helpers.py", "package/__init__.py", "requirements.txt", "train.py"]


def test_a_script_can_be_in_a_subfolder(folder: Path) -> None:
    """The folder is copied as a whole, and the entry point keeps its path in it."""
    found = source.find(None, folder, "./package/__init__.py")
    assert found.entry_point.as_posix() == "package/__init__.py"
    assert found.script == folder / "package" / "__init__.py"
    assert "helpers.py" in source.files(found)


def test_copied_files_are_in_the_archive_of_the_container(folder: Path) -> None:
    """In the folder that sagemaker-training copies to /opt/ml/code."""
    code = source.files(source.find(folder / "train.py", None, None))
    content = io.BytesIO()
    write_archive(Job("train.py", code).files(), content)
    content.seek(0)
    with tarfile.open(fileobj=content) as tar:
        member = tar.extractfile(f"{CODE}/package/__init__.py".lstrip("/"))
        assert member
        assert member.read() == b"package/__init__.py"


@pytest.mark.parametrize(
    ("script", "source_dir", "entry_point", "message"),
    [
        (None, None, None, "no script is given"),
        (None, None, "train.py", "no script is given"),
        (None, ".", None, "no script is given"),
        ("train.py", ".", "train.py", "two scripts are given"),
        ("other.py", None, None, "other.py: no such file"),
        (None, "other", "train.py", "other: no such folder"),
        (None, ".", "other.py", "other.py: no such file in"),
        (None, ".", "../outside.py", "outside the source folder"),
        (None, ".", "/etc/hostname", "outside the source folder"),
        (None, ".", "link.py", "outside the source folder"),
    ],
)
def test_wrong_source_is_refused(
    folder: Path, script: str | None, source_dir: str | None, entry_point: str | None, message: str
) -> None:
    """Before an engine is used; the message names the file or folder."""
    (folder.parent / "outside.py").touch()
    (folder / "link.py").symlink_to("../outside.py")
    with pytest.raises(UserError, match=message):
        source.find(
            folder / script if script else None, folder / source_dir if source_dir else None, entry_point
        )


def test_links_are_followed(folder: Path) -> None:
    """As the SageMaker SDK does when it packs a source folder."""
    (folder.parent / "shared").mkdir()
    (folder.parent / "shared" / "words.py").write_text("shared")
    (folder / "shared").symlink_to(folder.parent / "shared")
    copied = source.files(source.find(folder / "train.py", None, None))
    assert copied["shared/words.py"].read_text() == "shared"


@pytest.mark.parametrize(("target", "message"), [("nothing", "leads to no file"), (".", "contains it")])
def test_link_that_leads_nowhere_is_an_error(folder: Path, target: str, message: str) -> None:
    (folder / "link").symlink_to(target)
    with pytest.raises(UserError, match=f"code/link: .*{message}"):
        source.files(source.find(folder / "train.py", None, None))


def test_folder_of_large_files_is_refused(folder: Path) -> None:
    """The script of somebody whose model or data is beside it."""
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(source.LARGEST + 1)
    with pytest.raises(UserError, match=r"more than 1\.1 GB(.|\n)*--source-dir"):
        source.files(source.find(folder / "train.py", None, None))


def test_folder_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a script in /tmp meets those of other users."""
    theirs, listed = folder / "systemd-private", Path.iterdir
    theirs.mkdir()

    def refuse(path: Path) -> Iterator[Path]:
        if path == theirs:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match=r"systemd-private: cannot be read: Permission denied(.|\n)*whole"):
        source.files(source.find(folder / "train.py", None, None))


def test_file_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a container is made."""
    opened: Callable[..., IO[bytes]] = Path.open

    def refuse(path: Path, *mode: str) -> IO[bytes]:
        if path.name == "helpers.py":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *mode)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"helpers.py: cannot be read: Permission denied"):
        source.files(source.find(folder / "train.py", None, None))


def test_link_to_itself_is_an_error(folder: Path) -> None:
    (folder / "link").symlink_to("link")
    with pytest.raises(UserError, match=r"cannot be read: Symlink loop from .*code/link"):
        source.files(source.find(folder / "train.py", None, None))
