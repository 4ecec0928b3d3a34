"""A bootstrapped base is the same archive every time, and says what it came from."""

import errno
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from docker.errors import APIError, DockerException, ImageNotFound

from hfdlc.build import bases
from hfdlc.engine import debian
from hfdlc.errors import HfdlcError
from hfdlc.matrix.schema import Bootstrap
from hfdlc.state import State


def engine(registry: Any) -> Any:
    """An engine whose client is the given object."""
    return SimpleNamespace(client=registry, address=SimpleNamespace(client=lambda _: registry))


DEBIAN = Bootstrap(suite="bookworm", packages=["python3"])


def test_the_archive_is_the_same_every_time(tmp_path: Path) -> None:
    """Two archives of one system have the same bytes."""
    root = tmp_path / "root.tar"
    root.write_bytes(b"a system" * 1000)
    archives = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for archive in archives:
        bases._pack(root, "hfdlc.local/base:1", bases.labels("example.org/python:3.11", DEBIAN), archive)
    assert archives[0].read_bytes() == archives[1].read_bytes()


def test_the_image_says_what_it_came_from(tmp_path: Path) -> None:
    """Its labels name the public image that it stands for, and how it was made."""
    root = tmp_path / "root.tar"
    root.write_bytes(b"a system")
    bases._pack(
        root, "hfdlc.local/base:1", bases.labels("example.org/python:3.11", DEBIAN), tmp_path / "image.tar"
    )
    with tarfile.open(tmp_path / "image.tar") as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = json.load(archive.extractfile(manifest["Config"]))  # type: ignore[arg-type]
    assert manifest["RepoTags"] == ["hfdlc.local/base:1"]
    assert config["config"]["Labels"] == {
        "org.opencontainers.image.base.name": "example.org/python:3.11",
        "io.hfdlc.base.source": "mmdebstrap",
        "io.hfdlc.base.suite": "bookworm",
        "io.hfdlc.base.packages": "python3",
    }


def test_another_package_makes_another_base() -> None:
    """The tag is computed from what goes into it."""
    other = Bootstrap(suite="bookworm", packages=["python3", "python3-pip"])
    assert bases.digest(DEBIAN) != bases.digest(other)


class Registry:
    """A fake engine client that counts the requests to a registry."""

    def __init__(self, answer: str | Exception) -> None:
        self.answer, self.requests = answer, 0
        self.images = self

    def get_registry_data(self, _: str) -> SimpleNamespace:
        """The digest, or the failure."""
        self.requests += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return SimpleNamespace(id=self.answer)

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | None]:
    """Ask for an image's digest at a time, through a registry."""

    def published(registry: Registry, image: str, at: float) -> str | None:
        return bases.published(image, engine(registry), State(tmp_path), lambda: at)

    return published


def failure(status: int) -> APIError:
    """What the engine hands on of a registry, or says of one that it cannot reach."""
    response = requests.Response()
    response.status_code = status
    return APIError("no", response)


def test_an_answer_is_remembered_for_some_minutes(query: Callable[..., str | None]) -> None:
    """A second build sends no request; a later one sends it again."""
    registry = Registry("sha256:1")
    assert [query(registry, "example.org/python:3.11", at) for at in (1000, 1599, 1601)] == ["sha256:1"] * 3
    assert registry.requests == 2


@pytest.mark.parametrize("error", [failure(500), requests.exceptions.ReadTimeout(), ConnectionError()])
def test_unreachable_registry_is_requested_once(query: Callable[..., str | None], error: Exception) -> None:
    """Unreachable: ten images do not wait ten times. Another registry is still requested."""
    registry = Registry(error)
    assert [query(registry, f"example.org/python:3.{minor}", 1000) for minor in (9, 10, 11)] == [None] * 3
    assert registry.requests == 1
    assert query(registry, "example.com/python:3.11", 1000) is None
    assert registry.requests == 2


def test_missing_credential_helper_is_not_an_unreachable_registry(query: Callable[..., str | None]) -> None:
    """Otherwise the base would be made from Debian's packages, without the reason."""
    reason = "Credentials store error: StoreError('docker-credential-x not installed')"
    with pytest.raises(HfdlcError, match="docker-credential-x not installed") as caught:
        query(Registry(DockerException(reason)), "example.org/python:3.11", 1000)
    assert "example.org/python:3.11: the credential helper" in str(caught.value)


def test_missing_image_does_not_mark_the_registry_as_unreachable(
    query: Callable[..., str | None],
) -> None:
    """It answered: it is in reach."""
    missing, there = Registry(failure(404)), Registry("sha256:1")
    assert query(missing, "example.org/python:3.99", 1000) is None
    assert query(there, "example.org/python:3.11", 1000) == "sha256:1"


def test_answer_from_the_future_is_not_used(query: Callable[..., str | None]) -> None:
    """An answer of the future is none."""
    registry = Registry("sha256:1")
    query(registry, "example.org/python:3.11", 2000)
    query(registry, "example.org/python:3.11", 1000)
    assert registry.requests == 2


class Holding:
    """A stand-in for an engine that has some images."""

    def __init__(self, **images: Mapping[str, object]) -> None:
        self.images, self.held = self, images

    def get(self, name: str) -> SimpleNamespace:
        """An image, by its name."""
        if name not in self.held:
            raise ImageNotFound(name)
        return SimpleNamespace(attrs=self.held[name])


def test_an_image_that_the_engine_has_is_used_by_its_digest() -> None:
    """A registry's, or where it never had one the image's own."""
    pulled = {"Id": "sha256:2", "RepoDigests": ["example.org/python@sha256:1"]}
    client: Any = Holding(pulled=pulled, loaded={"Id": "sha256:2", "RepoDigests": []})
    assert bases._held("pulled", client) == "sha256:1"
    assert bases._held("loaded", client) == "sha256:2"
    assert bases._held("absent", client) is None


def test_an_image_made_here_has_one_digest_in_both_image_stores() -> None:
    """Its id and its manifest differ there; the inputs of images made from it, and their layers, must not."""
    layers = {"Layers": ["sha256:3"]}
    name, found = "hfdlc.local/base:1", set()
    for about in (
        {"Id": "sha256:1", "RepoDigests": []},
        {"Id": "sha256:2", "RepoDigests": [f"{name}@sha256:2"]},
    ):
        client: Any = Holding(**{name: about | {"RootFS": layers}})
        found.add(bases._held(name, client))
    other: Any = Holding(**{name: {"RootFS": {"Layers": ["sha256:4"]}}})
    assert len(found) == 1
    assert bases._held(name, other) not in found


def test_neither_a_registry_nor_a_bootstrap_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It names the base, and how to see what is wrong."""
    registry = Registry(failure(500))
    monkeypatch.setattr(registry, "get", Holding().get, raising=False)
    session: Any = SimpleNamespace(engine=engine(registry), state=State(tmp_path), environ={})
    with pytest.raises(HfdlcError, match=r"the base image example\.org/cuda:13 is unreachable"):
        bases.ensure("example.org/cuda:13", None, session)


def test_full_disk_leaves_no_partial_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the system's files nor a part of the archive stay; the message says what to do."""

    def full(_: Bootstrap, target: Path, *__: object) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bases, "_bootstrap", full)
    with pytest.raises(HfdlcError, match="hint: free disk space"):
        bases.make("example.org/python:3.11", "hfdlc.local/base:1", DEBIAN, State(tmp_path), {})
    assert list((tmp_path / "bases").iterdir()) == []


def test_proxy_is_used_to_make_a_base_and_not_kept_in_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is passed to apt, and the file in which mmdebstrap records it is removed."""
    commands: list[list[str]] = []
    monkeypatch.setattr(
        debian, "release", lambda: debian.Release("bookworm", (("", "http://mirror.example"),))
    )
    monkeypatch.setattr(debian, "unpacked", lambda *_: tmp_path)
    monkeypatch.setattr(debian, "network_settings", lambda: ['Acquire::http::Proxy "http://proxy.example";'])
    monkeypatch.setattr(bases, "run", lambda argv, **_: commands.append(argv))
    bases._bootstrap(DEBIAN, tmp_path / "root.tar", State(tmp_path), {})
    argv = commands[-1]
    assert '--aptopt=Acquire::http::Proxy "http://proxy.example";' in argv
    assert any("99mmdebstrap" in word and word.startswith("--customize-hook=rm") for word in argv)
