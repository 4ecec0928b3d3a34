#!/usr/bin/env python3
"""Makes a layer of what an installer left in a folder: `finish /layer`.

Leaves out what fits the patterns in LEFT_OUT, compiles the rest, and gives everything the time in
SOURCE_DATE_EPOCH. Runs in the stages that install packages, on every Python from 3.6 on.
"""

import csv
import os
import py_compile
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

SITES = "opt/venv/lib/python*/site-packages"


def main(layer, patterns, epoch):
    """Finish the packages below the folder `layer`, which will be `/`; `epoch`: seconds since 1970."""
    for site in layer.glob(SITES):
        leave_out(site, patterns)
        compile_all(site, Path("/") / site.relative_to(layer), epoch)
    for path in [layer, *layer.rglob("*")]:
        os.utime(str(path), (epoch, epoch), follow_symlinks=False)


def leave_out(site, patterns):
    """Remove what fits, and its rows in the packages' records."""
    for pattern in patterns:
        for found in sorted(site.glob(pattern)):
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(str(found))
            elif os.path.lexists(str(found)):
                found.unlink()
    for record in site.glob("*.dist-info/RECORD"):
        forget(record, site)


def forget(record, site):
    """Drop the rows of files that are not there any more: a package lists what it has."""
    with record.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    kept = [row for row in rows if row and os.path.lexists(str(site / row[0]))]
    if kept != rows:
        with record.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(kept)


def compile_all(site, place, epoch):
    """Compile every module, for packages that will be found at `place`.

    With SOURCE_DATE_EPOCH, byte code goes by the hash of its source; on Python 3.6, by its time.
    """
    with ProcessPoolExecutor() as pool:
        # Each result is taken: an error is one of the build.
        for _ in pool.map(partial(compile_one, site, place, epoch), sorted(site.rglob("*.py")), chunksize=32):
            pass


def compile_one(site, place, epoch, module):
    """Compile a module, unless it is for a newer Python: packages ship some that they do not import here."""
    os.utime(str(module), (epoch, epoch))
    try:
        py_compile.compile(str(module), dfile=str(place / module.relative_to(site)), doraise=True)
    except py_compile.PyCompileError as problem:
        print(problem.file, "is left as it is:", problem.exc_type_name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), os.environ["LEFT_OUT"].split(), int(os.environ["SOURCE_DATE_EPOCH"]))
