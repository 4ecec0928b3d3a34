"""The state folder is where the environment says, and two runs share it safely."""

from pathlib import Path

import pytest

from hfdlc.build import history
from hfdlc.errors import HfdlcError
from hfdlc.state import State, write_whole


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"HFDLC_STATE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/hfdlc"),
        ({"HOME": "/c"}, "/c/.cache/hfdlc"),
    ],
)
def test_the_environment_names_the_folder(environ: dict[str, str], folder: str) -> None:
    """HFDLC_STATE first, then XDG_CACHE_HOME, then the home folder."""
    assert State.of(environ).root == Path(folder)


def test_a_lock_that_is_held_names_its_holder(tmp_path: Path) -> None:
    """Without waiting, the error names the process that has it; afterwards it is free."""
    state = State(tmp_path)
    with (
        state.lock("engine"),
        pytest.raises(HfdlcError, match=r"in use by process \d+"),
        state.lock("engine", wait=False),
    ):
        pass
    with state.lock("engine", wait=False):
        pass


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """What cannot be written leaves the old text, and nothing beside it."""
    file = tmp_path / "some.lock"
    write_whole(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "new\ud800")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_folder_that_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot be made, and one of root after `sudo hfdlc`."""
    (tmp_path / "file").touch()
    with pytest.raises(HfdlcError, match=r"logs: cannot be written to: Not a directory(.|\n)*HFDLC_STATE"):
        State(tmp_path / "file").folder("logs")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(HfdlcError, match=r"logs: cannot be written to: Permission denied"):
        State(tmp_path).folder("logs")


def test_history_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    """`hfdlc plan` only reads, and needs no state folder."""
    (tmp_path / "file").touch()
    assert history.read(State(tmp_path / "file")) == []
