"""How a build reaches packages: configuration as secrets, wheels in a folder or on loopback."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from hfdlc.build.bake import BuildContext
from hfdlc.locks import lockfile
from hfdlc.locks.indexes import IndexConfig
from hfdlc.matrix.cells import Cell
from hfdlc.state import State

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"  # in every base image


@contextmanager
def with_access(
    context: BuildContext,
    sources: IndexConfig,
    cells: Sequence[Cell],
    root: Path,
    state: State,
    *,
    shares_host_network: bool = False,
) -> Iterator[BuildContext]:
    """The context with access to package indexes, as secrets and a folder of wheels, while a build lasts.

    `shares_host_network`: builds share this machine's network, so that they can download from loopback.
    """
    with ExitStack() as held:
        folder = Path(
            held.enter_context(tempfile.TemporaryDirectory(prefix="access-", dir=state.folder("tmp")))
        )
        context = replace(context, secrets=_secrets(sources, folder), proxies=dict(sources.proxies or {}))
        gathered, local = gather(sources, cells, root, folder / "wheels")
        if local and shares_host_network and not sources.proxies:
            url = held.enter_context(served(gathered))
            context = replace(context, has_local_wheels=local, wheels=url)
        elif local:
            context = replace(context, has_local_wheels=local, contexts={"wheels": str(gathered)})
        yield context


def _secrets(sources: IndexConfig, folder: Path) -> dict[str, str]:
    """Configuration files for uv and pip, and the certificate bundle, by the names that Dockerfiles use."""
    uv = ["system-certs = true"] if sources.certificates else []
    pip = ["[global]", "disable-pip-version-check = true"]
    if sources.index:
        uv.append(f"index-url = {json.dumps(sources.index)}")
        pip.append(f"index-url = {sources.index}")
    if sources.extra_indexes:
        uv.append(f"extra-index-url = {json.dumps(list(sources.extra_indexes))}")
        pip.append(f"extra-index-url = {' '.join(sources.extra_indexes)}")
    secrets = {}
    if sources.certificates:
        pip.append(f"cert = {CERTIFICATES}")
        secrets["ca"] = str(sources.certificates)
    for file, lines in (("uv.toml", uv), ("pip.conf", pip)):
        path = folder / file
        path.touch(mode=0o600)
        path.write_text("\n".join(lines) + "\n")
        secrets[file] = str(path)
    return secrets


def gather(
    sources: IndexConfig, cells: Sequence[Cell], root: Path, folder: Path
) -> tuple[Path, frozenset[str]]:
    """Gather local wheels of the frameworks that cells lock; the folder, and the cells that have one."""
    folder.mkdir()
    local = set()
    for cell in cells:
        if not cell.source.page:  # from the package index: the wheel of a folder could be another build
            continue
        wanted = lockfile.entries(
            (root / lockfile.group_file(cell, cell.group_of_rest("framework"))).read_text()
        )
        name = lockfile.name_of(cell.framework_requirements()[0])
        framework = next((entry for entry in wanted if entry.name == name), None)
        if not framework:  # unreachable when the cell was locked
            continue
        for source in sources.wheel_folders:
            for wheel in source.glob(f"{name.replace('-', '_')}-{framework.version}-*.whl"):
                _link(wheel, folder / wheel.name)
                local.add(cell.id)
    return folder, frozenset(local)


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        target.hardlink_to(source)
    except OSError:  # another file system
        target.write_bytes(source.read_bytes())


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing: uv and pip report what they could not download."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback while a build lasts; its URL.

    A named context would be sent to BuildKit and read twice: 190 MB took 7 s of processor time.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        # How often it checks for its shutdown: the default of 0.5 s would delay the end of a build.
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
