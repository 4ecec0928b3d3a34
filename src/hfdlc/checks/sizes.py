"""What an image's layers and packages weigh, and which of them grew since the cell was proved."""

from collections.abc import Mapping

from hfdlc.checks.subject import Subject
from hfdlc.dockerfile import layers
from hfdlc.engine import images

Sizes = Mapping[str, int]  # `layer framework` or `torch` -> bytes
SMALL = 1_000_000  # bytes; what weighs less is not kept
SHOWN = 8  # lines


def read(subject: Subject) -> dict[str, int]:
    """The bytes of each layer that the cell lays, and of each folder of packages; not of small ones."""
    names = ["venv", *(layer.name for layer in layers.layers(subject.cell, subject.root))]
    sizes = zip(names, images.laid(subject.built), strict=True)
    found = {f"layer {name}": layer.size for name, layer in sizes}
    told = subject.host.check_output("du -bs /opt/venv/lib/python*/site-packages/*")
    for line in told.splitlines():
        size, _, folder = line.partition("\t")
        found[folder.rpartition("/")[2]] = int(size)
    return {name: size for name, size in sorted(found.items()) if size >= SMALL}


def grown(before: Sizes, now: Sizes) -> list[str]:
    """What weighs more than before, a line each, what grew most first; the largest where nothing is known."""
    more = {name: now[name] - before.get(name, 0) for name in now if now[name] > before.get(name, 0)}
    names = sorted(more, key=lambda name: more[name], reverse=True)[:SHOWN]
    was = {name: f"{before.get(name, 0) / 1e6:.1f} -> " if before else "" for name in names}
    return [f"{name}: {was[name]}{now[name] / 1e6:.1f} MB" for name in names]
