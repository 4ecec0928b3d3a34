"""Wheels that the building machine brings along: gathered in a folder, and served on loopback."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from hfdlc import lock
from hfdlc.cells import Cell
from hfdlc.machine import PackageSources


def gather(
    sources: PackageSources, cells: Sequence[Cell], root: Path, folder: Path
) -> tuple[Path, frozenset[str]]:
    """Gather the machine's wheels that the cells' framework locks name; say which cells have theirs."""
    folder.mkdir()
    brought = set()
    for cell in cells:
        if not cell.source.page:  # of the package index: a folder's build could be another one
            continue
        wanted = lock.entries((root / lock.group_file(cell, "framework")).read_text())
        name = lock.name_of(cell.framework_requirements()[0])
        framework = next((entry for entry in wanted if entry.name == name), None)
        if not framework:  # out of reach when it was locked
            continue
        for source in sources.wheel_folders:
            for wheel in source.glob(f"{name.replace('-', '_')}-{framework.version}-*.whl"):
                _link(wheel, folder / wheel.name)
                brought.add(cell.id)
    return folder, frozenset(brought)


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        target.hardlink_to(source)
    except OSError:  # another file system
        target.write_bytes(source.read_bytes())


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing: uv and pip tell what they could not fetch."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback while a build lasts, and give its address.

    As a named context it would be sent to BuildKit whole, and read twice: 190 MB took 7 s of processors.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        # It looks that often whether it is to end: by default twice a second, which a build would wait for.
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
