"""The sizes of an image's layers and packages."""

from collections.abc import Mapping

from hfdlc.checks.subject import Subject
from hfdlc.dockerfile import layers
from hfdlc.engine import images

Sizes = Mapping[str, int]  # `layer framework` or `torch` -> bytes
SMALL = 1_000_000  # bytes; smaller ones are left out
SHOWN = 8  # lines


def read(subject: Subject) -> dict[str, int]:
    """The bytes of each layer and of each folder of packages, without small ones."""
    names = ["venv", *(layer.name for layer in layers.layers(subject.cell, subject.root))]
    sizes = zip(names, images.package_layers(subject.built), strict=True)
    found = {f"layer {name}": layer.size for name, layer in sizes}
    output = subject.host.check_output("du -bs /opt/venv/lib/python*/site-packages/*")
    for line in output.splitlines():
        size, _, folder = line.partition("\t")
        found[folder.rpartition("/")[2]] = int(size)
    return {name: size for name, size in sorted(found.items()) if size >= SMALL}


def largest(sizes: Sizes) -> list[str]:
    """The largest layers and packages, one line each."""
    names = sorted(sizes, key=lambda name: sizes[name], reverse=True)[:SHOWN]
    return [f"{name}: {sizes[name] / 1e6:.1f} MB" for name in names]
