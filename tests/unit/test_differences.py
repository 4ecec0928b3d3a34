"""What is reported of two images that differ."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hfdlc.build.differences import CHUNK, between
from hfdlc.oci.image import Image, digest_of
from hfdlc.oci.store import LayerStore
from parts import stored_layer

Member = tuple[bytes, Mapping[str, Any]]


def layer(members: Mapping[str, Member]) -> bytes:
    """An archive of files, each with its content and what else it has."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, (content, about) in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in about.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return written.getvalue()


def image(folder: Path, *layers: bytes, **settings: Any) -> Image:
    """An image of these archives in a layer store."""
    store = LayerStore(folder)
    config = {**settings, "rootfs": {"diff_ids": [digest_of(each) for each in layers]}}
    return Image(json.dumps(config).encode(), tuple(stored_layer(store, each) for each in layers), store)


@pytest.mark.parametrize(
    ("one", "other", "line"),
    [
        ((b"abc", {}), (b"abd", {}), "/opt/file: content, from byte 2"),
        ((bytes(CHUNK) + b"a", {}), (bytes(CHUNK) + b"b", {}), f"/opt/file: content, from byte {CHUNK}"),
        ((b"a", {"mode": 0o644}), (b"a", {"mode": 0o600}), "/opt/file: mode 644 and 600"),
        ((b"a", {"mtime": 1}), (b"a", {"mtime": 2}), "/opt/file: mtime 1 and 2"),
        ((b"a", {"uid": 0}), (b"a", {"uid": 7}), "/opt/file: uid 0 and 7"),
    ],
    ids=["content", "content behind a piece", "mode", "mtime", "uid"],
)
def test_changed_file_is_named_with_what_differs(
    one: Member, other: Member, line: str, tmp_path: Path
) -> None:
    """The file that both images have is not."""
    same: Member = (b"same", {})
    images = [image(tmp_path, layer({"opt/file": each, "opt/same": same})) for each in (one, other)]
    assert list(between(*images)) == [f"layer 0: {line}"]


def test_changed_length_is_reported_by_size_and_content(tmp_path: Path) -> None:
    """A file that was cut differs from its end on."""
    one, other = (image(tmp_path, layer({"file": (content, {})})) for content in (b"abc", b"ab"))
    assert list(between(one, other)) == [
        "layer 0: /file: size 3 and 2",
        "layer 0: /file: content, from byte 2",
    ]


def test_file_of_one_image_is_named(tmp_path: Path) -> None:
    one, other = (image(tmp_path, layer({name: (b"a", {})})) for name in ("a", "b"))
    assert list(between(one, other)) == [
        "layer 0: /a: only the first has it",
        "layer 0: /b: only the second has it",
    ]


def test_only_layers_that_differ_are_read(tmp_path: Path) -> None:
    """A shared layer is not: its file may be gone."""
    shared = layer({"shared": (b"a", {})})
    one, other = (image(tmp_path, shared, layer({"own": (content, {})})) for content in (b"a", b"b"))
    one.store.path(one.layers[0].digest).unlink()
    assert list(between(one, other)) == ["layer 1: /own: content, from byte 0"]


def test_additional_layer_is_named(tmp_path: Path) -> None:
    first, second = (layer({name: (b"a", {})}) for name in ("a", "b"))
    lines = list(between(image(tmp_path, first), image(tmp_path, first, second)))
    assert lines == ["layer 1: only one of them has it"]


def test_changed_order_of_files_is_reported(tmp_path: Path) -> None:
    """The archives differ, though no file does."""
    members: dict[str, Member] = {"a": (b"a", {}), "b": (b"b", {})}
    backwards = dict(reversed(members.items()))
    (line,) = between(image(tmp_path, layer(members)), image(tmp_path, layer(backwards)))
    assert line.startswith("layer 0: the order of ")


def test_changed_configuration_is_reported_by_its_innermost_values(tmp_path: Path) -> None:
    """Lists of the same length are compared item by item."""
    one = image(tmp_path, config={"Env": ["A=1", "B=2"], "Cmd": ["serve"]})
    other = image(tmp_path, config={"Env": ["A=1", "B=3"]})
    assert list(between(one, other)) == [
        "configuration, config, Cmd: ['serve'] and None",
        "configuration, config, Env 1: 'B=2' and 'B=3'",
    ]


def test_equal_images_have_no_differences(tmp_path: Path) -> None:
    one, other = (image(tmp_path, layer({"a": (b"a", {})}), config={"Cmd": ["serve"]}) for _ in range(2))
    assert list(between(one, other)) == []
