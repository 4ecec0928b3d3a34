#!/usr/bin/env python3
"""Finishes a layer that an installer left in a folder: `finish /layer [OPTIONS]`.

Removes files (`--remove PATTERN...`), cuts the symbols off libraries (`--strip PATTERN...`), compiles modules
but some (`--no-byte-code PATTERN...`, `--no-byte-code-of PACKAGE...`), and gives everything the time in
SOURCE_DATE_EPOCH. A layer in a folder that is not `/layer` is packed into `/packed`, by the program beside
this one. Runs in the stages that install packages, on every Python from 3.6 on.
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
# ELF of 64 bits, little-endian: https://refspecs.linuxfoundation.org/elf/elf.pdf, figures 1-3 and 1-9.
MAGIC = b"\x7fELF\2\1"
SECTION = struct.Struct("<IIQQQQIIQQ")  # name, type, flags, address, offset, size, link, info, align, entry
NOTHING, NO_BITS, LOADED = 0, 8, 2  # two types, a flag


def main(layer, options, epoch):
    """Finish the packages below the folder `layer`, which will be `/`."""
    unwanted, bare, raw = map(patterns, (options.remove, options.strip, options.no_byte_code))
    for site in layer.glob(SITES):
        leave_out(site, unwanted)
        libraries = [name for name in files(site) if bare(name) and (site / name).is_file()]
        rewritten = [name for name in libraries if forget_symbols(site / name)]
        for record in site.glob("*.dist-info/RECORD"):
            correct(record, site, set(rewritten))
        whole = set(files_of(site, options.no_byte_code_of))
        modules = [
            name for name in files(site) if name.endswith(".py") and name not in whole and not raw(name)
        ]
        compile_all(site, Path("/") / site.relative_to(layer), modules, epoch)
    for path in [layer, *layer.rglob("*")]:
        os.utime(str(path), (epoch, epoch), follow_symlinks=False)
    if layer != Path("/layer"):
        subprocess.check_call([str(Path(__file__).with_name("pack")), str(layer), "/packed"])


def arguments(argv):
    """The options; each can be given once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("layer", type=Path)
    for name in ("remove", "strip", "no-byte-code", "no-byte-code-of"):
        parser.add_argument("--" + name, nargs="+", default=[])
    return parser.parse_args(argv)


def files_of(site, packages):
    """The files of packages, by canonical name."""
    for record in site.glob("*.dist-info/RECORD"):
        name = re.sub("[-_.]+", "-", record.parent.name.partition("-")[0]).lower()
        if name in packages:
            with record.open(newline="", encoding="utf-8") as file:
                for row in csv.reader(file):
                    yield from row[:1]


def patterns(given):
    """Whether a path fits one of the patterns: `*` is within a name, `**/` any folders or none."""
    words = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    parts = re.compile(r"\*\*/|\*|\?|\[[^]]+\]")
    found = []
    for pattern in given:
        rest = [re.escape(part) for part in parts.split(pattern)]
        special = [words.get(part, part.replace("[!", "[^")) for part in parts.findall(pattern)]
        pairs = zip_longest(rest, special, fillvalue="")
        found.append("(?:" + "".join(part for pair in pairs for part in pair) + ")")
    return re.compile("|".join(found) or r"(?!)").fullmatch


def files(site):
    """The paths of all files below the folder of packages, in order."""
    return sorted(
        str(Path(folder, name).relative_to(site)) for folder, _, names in os.walk(str(site)) for name in names
    )


def leave_out(site, unwanted):
    """Remove the folders and files that fit."""
    for folder, folders, names in os.walk(str(site)):
        for name in folders + names:
            path = Path(folder, name)
            if not unwanted(str(path.relative_to(site))):
                continue
            if name in folders and not path.is_symlink():
                shutil.rmtree(str(path))
            else:
                path.unlink()
        folders[:] = [name for name in folders if Path(folder, name).is_dir()]


def forget_symbols(path):
    """Cut off a library what is never loaded: symbols, debuggers' data; whether there was any.

    Only where that lies behind all that is loaded, of which not a byte moves.
    """
    with path.open("r+b") as file:
        head = file.read(64)
        if len(head) < 64 or not head.startswith(MAGIC):
            return False
        (where,), (number, names) = struct.unpack_from("<Q", head, 40), struct.unpack_from("<2H", head, 60)
        file.seek(where)
        sections = [list(SECTION.unpack(file.read(SECTION.size))) for _ in range(number)]
        others = [one for one in sections if one[1] not in (NOTHING, NO_BITS) and one is not sections[names]]
        gone = [one for one in others if not one[2] & LOADED]
        start = min((one[4] for one in gone), default=0)
        if not gone or any(one[4] + one[5] > start for one in others if one not in gone):
            return False
        file.seek(sections[names][4])
        text = file.read(sections[names][5])
        for one in gone:
            one[1:] = [NOTHING] + [0] * 8
        sections[names][4] = start
        table = (start + len(text) + 7) & ~7
        file.seek(start)
        file.write(text.ljust(table - start, b"\0") + b"".join(SECTION.pack(*one) for one in sections))
        file.truncate()
        file.seek(40)
        file.write(struct.pack("<Q", table))
    return True


def correct(record, site, rewritten):
    """Drop the rows of files that are gone, and the hashes of those that hold something else now.

    A row may do without: https://packaging.python.org/en/latest/specifications/recording-installed-packages.
    """
    with record.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    kept = [row for row in rows if row and os.path.lexists(str(site / row[0]))]
    told = [[row[0], "", ""] if row[0] in rewritten else row for row in kept]
    if told != rows:
        with record.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(told)


def compile_all(site, place, modules, epoch):
    """Compile modules, for packages that will be found at `place`.

    With SOURCE_DATE_EPOCH, byte code goes by the hash of its source; on Python 3.6, by its time.
    """
    with ProcessPoolExecutor() as pool:
        # Each result is taken: an error is one of the build.
        for _ in pool.map(partial(compile_one, site, place, epoch), modules, chunksize=32):
            pass


def compile_one(site, place, epoch, module):
    """Compile a module, unless it is for a newer Python: packages ship some that they do not import here."""
    os.utime(str(site / module), (epoch, epoch))
    try:
        py_compile.compile(str(site / module), dfile=str(place / module), doraise=True)
    except py_compile.PyCompileError as problem:
        print(problem.file, "is left as it is:", problem.exc_type_name)


if __name__ == "__main__":
    OPTIONS = arguments(sys.argv[1:])
    main(OPTIONS.layer, OPTIONS, int(os.environ["SOURCE_DATE_EPOCH"]))
