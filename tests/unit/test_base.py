"""A bootstrapped base is the same archive every time, and says what it came from."""

import json
import tarfile
from pathlib import Path

from hfdlc import base
from hfdlc.matrix import Bootstrap

DEBIAN = Bootstrap(suite="bookworm", packages=["python3"])


def test_the_archive_is_the_same_every_time(tmp_path: Path) -> None:
    """Two archives of one system have the same bytes."""
    root = tmp_path / "root.tar"
    root.write_bytes(b"a system" * 1000)
    archives = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for archive in archives:
        base._pack(root, "hfdlc.local/base:1", base.labels("example.org/python:3.11", DEBIAN), archive)
    assert archives[0].read_bytes() == archives[1].read_bytes()


def test_the_image_says_what_it_came_from(tmp_path: Path) -> None:
    """Its labels name the public image that it stands for, and how it was made."""
    root = tmp_path / "root.tar"
    root.write_bytes(b"a system")
    base._pack(
        root, "hfdlc.local/base:1", base.labels("example.org/python:3.11", DEBIAN), tmp_path / "image.tar"
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
    assert base.digest(DEBIAN) != base.digest(other)
