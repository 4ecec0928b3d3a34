#!/usr/bin/env python3
"""Leaves files out of packages: `slim SITE_PACKAGES...`, by the patterns in LEFT_OUT.

Runs in the stages that install packages, on every Python from 3.6 on.
"""

import csv
import os
import shutil
import sys
from pathlib import Path


def main(folders, patterns):
    """Remove what fits the patterns below each folder, and its rows in the packages' records."""
    for folder in map(Path, folders):
        for pattern in patterns:
            for found in sorted(folder.glob(pattern)):
                if found.is_dir() and not found.is_symlink():
                    shutil.rmtree(str(found))
                elif os.path.lexists(str(found)):
                    found.unlink()
        for record in folder.glob("*.dist-info/RECORD"):
            forget(record, folder)


def forget(record, folder):
    """Drop the rows of files that are not there any more: a package lists what it has."""
    with record.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    kept = [row for row in rows if row and os.path.lexists(str(folder / row[0]))]
    if kept != rows:
        with record.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(kept)


if __name__ == "__main__":
    main(sys.argv[1:], os.environ["LEFT_OUT"].split())
