"""How a build reaches packages: configuration as secrets, wheels in a folder or on loopback."""

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from threading import Thread

from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)

from hfdlc.build.bake import BuildContext
from hfdlc.locks import lockfile
from hfdlc.locks.indexes import IndexConfig
from hfdlc.matrix.cells import Cell
from hfdlc.process import say
from hfdlc.state import State

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"  # in every base image
CLIENT_CERTIFICATE = "/etc/ssl/client.pem"  # where Dockerfiles mount it
PIP_NAMES = {"allow-insecure-host": "trusted-host"}  # by the names of uv


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
        if sources.not_passed:
            say(f"not passed to the build: {'; '.join(sources.not_passed)}")
        arguments = dict(sources.proxies or {})
        if sources.client_certificate:
            arguments["SSL_CLIENT_CERT"] = CLIENT_CERTIFICATE  # uv reads it
        context = replace(context, arguments=arguments)
        gathered, local = gather(sources, cells, root, folder / "wheels")
        if local and shares_host_network and not sources.proxies:
            url = held.enter_context(served(gathered))
            context = replace(context, has_local_wheels=local, wheels=url)
        elif local:
            context = replace(context, has_local_wheels=local, contexts={"wheels": str(gathered)})
        yield replace(context, secrets=_secrets(sources, folder, context.wheels))


def _secrets(sources: IndexConfig, folder: Path, wheels: str) -> dict[str, str]:
    """Configuration files for uv and pip, and certificates, by the names that Dockerfiles use.

    `wheels`: where the build finds the wheels of this machine.
    """
    options = {name: value for name, value in _options(sources, wheels).items() if value}
    uv = [f"{name} = {json.dumps(value)}" for name, value in options.items()]
    pip = ["[global]", "disable-pip-version-check = true"]
    pip += [f"{PIP_NAMES.get(name, name)} = {_text(value)}" for name, value in options.items()]
    secrets = {}
    if sources.certificates:
        uv.append("system-certs = true")
        pip.append(f"cert = {CERTIFICATES}")
        secrets["ca"] = str(sources.certificates)
    if sources.client_certificate:
        pip.append(f"client-cert = {CLIENT_CERTIFICATE}")
        secrets["client-cert"] = str(sources.client_certificate)
    logins = [f"machine {host} login {user} password {word}" for host, (user, word) in sources.logins.items()]
    files = {"uv.toml": uv, "pip.conf": pip, **({"netrc": logins} if logins else {})}
    for file, lines in files.items():
        path = folder / file
        path.touch(mode=0o600)
        path.write_text("\n".join(lines) + "\n")
        secrets[file] = str(path)
    return secrets


def _options(sources: IndexConfig, wheels: str) -> dict[str, str | list[str] | bool | None]:
    """The settings that uv and pip share, by uv's names."""
    return {
        "index-url": sources.index,
        "extra-index-url": list(sources.extra_indexes),
        "find-links": [*sources.wheel_pages, *([wheels] if sources.no_index else [])],
        "no-index": sources.no_index,
        "allow-insecure-host": list(sources.trusted_hosts),
    }


def _text(value: str | list[str] | bool | None) -> str:
    """A value as pip writes it."""
    return " ".join(value) if isinstance(value, list) else str(value).lower() if value is True else str(value)


def gather(
    sources: IndexConfig, cells: Sequence[Cell], root: Path, folder: Path
) -> tuple[Path, frozenset[str]]:
    """Gather local wheels of the frameworks that cells lock; the folder, and the cells that have one.

    If no index may be used, all packages that cells and their installers lock are gathered.
    """
    folder.mkdir()
    if sources.no_index:
        _gather_all(sources, cells, root, folder)
        return folder, frozenset(cell.id for cell in cells)
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
                if _suits(wheel, cell):
                    _link(wheel, folder / wheel.name)
                    local.add(cell.id)
    return folder, frozenset(local)


def _gather_all(sources: IndexConfig, cells: Sequence[Cell], root: Path, folder: Path) -> None:
    locks = {lockfile.group_file(cell, group) for cell in cells for group in cell.groups}
    locks |= {lockfile.installer_file(cell.installer_python) for cell in cells}
    locked = {
        (entry.name, entry.version) for lock in locks for entry in lockfile.entries((root / lock).read_text())
    }
    for source in sources.wheel_folders:
        for file in source.iterdir():
            if _package(file) in locked:
                _link(file, folder / file.name)


def _suits(wheel: Path, cell: Cell) -> bool:
    """Whether a wheel is for the Python of a cell, on Linux and x86_64."""
    try:
        tags = parse_wheel_filename(wheel.name)[3]
    except InvalidWheelFilename:
        return False
    platforms = [tag.platform for tag in tags if re.fullmatch(r"(many)?linux\w*_x86_64", tag.platform)]
    version = [int(part) for part in cell.python.split(".")]
    own = cpython_tags(version, platforms=platforms), compatible_tags(version, platforms=platforms)
    return not tags.isdisjoint(chain(*own))


def _package(file: Path) -> tuple[str, str] | None:
    """The canonical name and the version of a wheel or a source archive; None for other files."""
    try:
        parse = parse_wheel_filename if file.suffix == ".whl" else parse_sdist_filename
        name, version = parse(file.name)[:2]
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None
    return name, str(version)


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
