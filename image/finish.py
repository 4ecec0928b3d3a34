#!/usr/bin/env python3
"""Finish a layer that an installer left in a folder.

    finish FOLDER [--remove PATTERN...] [--strip PATTERN...]

Removes files, strips symbols from libraries, compiles modules, and sets all times to SOURCE_DATE_EPOCH.
Patterns are below site-packages. Modules whose folder `__pycache__` is removed are not compiled. A layer in
a folder that is not `/layer` is compressed into `/packed/layer`, by the program `pack` beside this one.

Runs in the stages that install packages, on every Python from 3.6 on.
"""

import argparse
import csv
import os
import py_compile
import re
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import zip_longest
from pathlib import Path

SITES = "opt/venv/lib/python*/site-packages"
PACKED = "/packed/layer"  # before it copies a folder, BuildKit looks at all that is in the folder's parent
# ELF of 64 bits, little-endian: https://refspecs.linuxfoundation.org/elf/elf.pdf, figures 1-3 and 1-9.
MAGIC = b"\x7fELF\2\1"
SECTION = struct.Struct("<IIQQQQIIQQ")  # name, type, flags, address, offset, size, link, info, align, entry
SHT_NULL, SHT_NOBITS, SHF_ALLOC = 0, 8, 2  # two types, and the flag of sections that are loaded into memory


def main(layer, remove, strip, epoch):
    """Finish the packages below the folder `layer`, which will be `/`."""
    is_removed, is_stripped = matcher(remove), matcher(strip)
    for site in layer.glob(SITES):
        remove_matching(site, is_removed)
        libraries = [name for name in list_files(site) if is_stripped(name) and (site / name).is_file()]
        stripped = {name for name in libraries if strip_symbols(site / name)}
        for record in site.glob("*.dist-info/RECORD"):
            update_record(record, site, stripped)
        modules = [
            name
            for name in list_files(site)
            if name.endswith(".py") and not is_removed(str(Path(name).parent / "__pycache__"))
        ]
        compile_all(site, Path("/") / site.relative_to(layer), modules, epoch)
    for path in [layer, *layer.rglob("*")]:
        os.utime(str(path), (epoch, epoch), follow_symlinks=False)
    if layer != Path("/layer"):
        subprocess.check_call([str(Path(__file__).with_name("pack")), str(layer), PACKED])


def parse(argv):
    """Parse the command line; each option can be given once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("layer", type=Path)
    parser.add_argument("--remove", nargs="+", default=[])
    parser.add_argument("--strip", nargs="+", default=[])
    return parser.parse_args(argv)


def matcher(patterns):
    """Return a function that tests whether a path matches one of the patterns, in the syntax of pathlib.

    One regular expression for all: a glob for each pattern would read all folders again.
    """
    words = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    special = re.compile(r"\*\*/|\*|\?|\[[^]]+\]")
    found = []
    for pattern in patterns:
        literal = [re.escape(part) for part in special.split(pattern)]
        between = [words.get(part, part.replace("[!", "[^")) for part in special.findall(pattern)]
        pairs = zip_longest(literal, between, fillvalue="")
        found.append("(?:" + "".join(part for pair in pairs for part in pair) + ")")
    return re.compile("|".join(found) or r"(?!)").fullmatch


def list_files(site):
    """The paths of all files below the folder of packages, sorted."""
    return sorted(
        str(Path(folder, name).relative_to(site)) for folder, _, names in os.walk(str(site)) for name in names
    )


def remove_matching(site, is_removed):
    """Remove the folders and files that match."""
    for folder, folders, names in os.walk(str(site)):
        for name in folders + names:
            path = Path(folder, name)
            if not is_removed(str(path.relative_to(site))):
                continue
            if name in folders and not path.is_symlink():
                shutil.rmtree(str(path))
            else:
                path.unlink()
        folders[:] = [name for name in folders if Path(folder, name).is_dir()]


def strip_symbols(path):
    """Remove the sections of a library that are never loaded: symbols, debug information; whether it had any.

    Only where they are behind all that is loaded, so that no loaded byte moves. `strip` moves them, which
    breaks libraries that patchelf has changed: https://github.com/NixOS/patchelf/issues/10.
    """
    with path.open("r+b") as file:
        header = file.read(64)
        if len(header) < 64 or not header.startswith(MAGIC):
            return False
        (offset,) = struct.unpack_from("<Q", header, 40)
        number, names = struct.unpack_from("<2H", header, 60)
        file.seek(offset)
        sections = [list(SECTION.unpack(file.read(SECTION.size))) for _ in range(number)]
        others = [
            each for each in sections if each[1] not in (SHT_NULL, SHT_NOBITS) and each is not sections[names]
        ]
        unloaded = [each for each in others if not each[2] & SHF_ALLOC]
        start = min((each[4] for each in unloaded), default=0)
        if not unloaded or any(each[4] + each[5] > start for each in others if each not in unloaded):
            return False
        file.seek(sections[names][4])
        text = file.read(sections[names][5])
        for each in unloaded:
            each[1:] = [SHT_NULL] + [0] * 8
        sections[names][4] = start
        table = (start + len(text) + 7) & ~7
        file.seek(start)
        file.write(text.ljust(table - start, b"\0") + b"".join(SECTION.pack(*each) for each in sections))
        file.truncate()
        file.seek(40)
        file.write(struct.pack("<Q", table))
    return True


def update_record(record, site, changed):
    """Drop the rows of files that are gone, and the hashes of files that were changed.

    A hash is optional: https://packaging.python.org/en/latest/specifications/recording-installed-packages.
    """
    with record.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    kept = [row for row in rows if row and os.path.lexists(str(site / row[0]))]
    updated = [[row[0], "", ""] if row[0] in changed else row for row in kept]
    if updated != rows:
        with record.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(updated)


def compile_all(site, installed, modules, epoch):
    """Compile modules, for packages that will be in the folder `installed`.

    With SOURCE_DATE_EPOCH, byte code is validated by the hash of its source; on Python 3.6, by its time.
    """
    with ProcessPoolExecutor() as pool:
        # Results are read, so that an error fails the build.
        for _ in pool.map(partial(compile_one, site, installed, epoch), modules, chunksize=32):
            pass


def compile_one(site, installed, epoch, module):
    """Compile a module, unless it is for a newer Python: packages ship some that they do not import here."""
    os.utime(str(site / module), (epoch, epoch))
    try:
        py_compile.compile(str(site / module), dfile=str(installed / module), doraise=True)
    except py_compile.PyCompileError as problem:
        print(problem.file, "is not compiled:", problem.exc_type_name)


if __name__ == "__main__":
    OPTIONS = parse(sys.argv[1:])
    main(OPTIONS.layer, OPTIONS.remove, OPTIONS.strip, int(os.environ["SOURCE_DATE_EPOCH"]))
