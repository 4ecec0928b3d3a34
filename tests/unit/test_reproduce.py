"""Comparing two builds of a cell: what the error says, and what is left on the disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hfdlc.build import reproduce
from hfdlc.build.session import Session
from hfdlc.errors import HfdlcError
from hfdlc.oci.image import Image
from hfdlc.project import Project
from publishing import image


@pytest.fixture
def session(repository: Project, tmp_path: Path) -> Session:
    """A session that needs no engine, because nothing is built."""
    return Session(repository, {"HFDLC_STATE": str(tmp_path)})


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the two builds give images with these labels."""

    def give(*labels: dict[str, str]) -> None:
        left = iter(labels)

        def build(_: Session, __: Any, folder: Path, *___: Any) -> Image:
            return image(folder, b"layer", labels=next(left))

        monkeypatch.setattr(reproduce, "_build", build)

    return give


def test_equal_builds_give_their_digest(
    session: Session, builds: Callable[..., None], tmp_path: Path
) -> None:
    """The layers of both builds are removed."""
    builds({"a": "1"}, {"a": "1"})
    expected = image(tmp_path / "expected", b"layer", labels={"a": "1"}).manifest.digest
    assert reproduce.reproduce(session, session.project.default) == expected
    assert list(session.state.folder("tmp").iterdir()) == []


def test_different_builds_are_an_error_that_names_the_differences(
    session: Session, builds: Callable[..., None]
) -> None:
    builds({"a": "1"}, {"a": "2"})
    with pytest.raises(HfdlcError) as caught:
        reproduce.reproduce(session, session.project.default)
    assert "configuration, config, Labels, a: '1' and '2'" in str(caught.value)
    assert str(caught.value).startswith(f"{session.project.default.id}: ")
    assert list(session.state.folder("tmp").iterdir()) == []


def test_error_names_the_first_differences_and_counts_the_others(
    session: Session, builds: Callable[..., None]
) -> None:
    number = reproduce.SHOWN + 2
    builds(*({f"label{index:03}": value for index in range(number)} for value in ("1", "2")))
    with pytest.raises(HfdlcError) as caught:
        reproduce.reproduce(session, session.project.default)
    assert str(caught.value).count("configuration, ") == reproduce.SHOWN
    assert "and 2 more" in str(caught.value)
