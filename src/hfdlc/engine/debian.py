"""Debian packages, downloaded and unpacked into a folder without installing them."""

import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hfdlc.errors import CommandFailed, HfdlcError
from hfdlc.process import run, say
from hfdlc.state import State

ROOM = 700e6  # bytes for package lists, packages and their content
PATIENCE = 900.0  # seconds
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
RELEASES = ("bookworm", "trixie")
ALIASES = ("stable", "oldstable")  # other names of a release in apt sources
ARCHIVES = ("", "-updates", "-security")  # suffixes of the suite in each archive

FREE_SPACE = "free disk space (`df -h`), or set HFDLC_STATE to a folder on another disk; then run this again"

Packages = Mapping[str, Sequence[str]]  # suite -> packages


@dataclass(frozen=True)
class Release:
    """The Debian release of this machine, and its archives."""

    codename: str
    archives: tuple[tuple[str, str], ...]  # suffix of ARCHIVES, and URI

    def sources(self, suite: str) -> list[str]:
        """The apt sources of a suite, from the archives that this machine uses."""
        return [f"deb [signed-by={KEYRING}] {uri} {suite}{ending} main" for ending, uri in self.archives]


def codename(os_release: Path = Path("/etc/os-release")) -> str:
    """The codename of this machine's release.

    Raises HfdlcError except on Debian 12 and 13.
    """
    lines = os_release.read_text().splitlines() if os_release.is_file() else []
    facts = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    name = facts.get("VERSION_CODENAME", "")
    if facts.get("ID") != "debian" or name not in RELEASES:
        raise HfdlcError(
            f"a private engine cannot run on {facts.get('PRETTY_NAME', 'this system')}",
            allowed="Debian 12 or 13",
            hint="start Docker 23 or newer, and set DOCKER_HOST if it is not local",
        )
    return name


def release(os_release: Path = Path("/etc/os-release")) -> Release:
    """The release and archives of this machine, from apt's configuration.

    Raises HfdlcError except on Debian 12 and 13, or if apt has no source.
    """
    name = codename(os_release)
    # Prints URIs and downloads nothing. `apt-get indextargets` prints nothing if the package lists are empty.
    output = run(["apt-get", "update", "--print-uris"]).stdout
    found = re.findall(r"^'(\S+)/dists/([^/\s]+)/InRelease'", output, re.MULTILINE)
    archives = {suite: uri for uri, suite in found}
    own = next((suite for suite in (name, *ALIASES) if suite in archives), None)
    if not own:
        raise HfdlcError(f"apt has no source for {name}", hint="add it to /etc/apt/sources.list")
    return Release(name, tuple((end, archives[own + end]) for end in ARCHIVES if own + end in archives))


def unpacked(packages: Packages, folder: Path) -> Path | None:
    """The root of a folder that has exactly these packages; None if it has others."""
    mark = folder / "packages"
    return folder / "root" if mark.is_file() and mark.read_text() == _mark(packages) else None


def unpack(packages: Packages, folder: Path, state: State, machine: Release | None = None) -> Path:
    """Download packages with apt, which verifies signatures, and unpack them into `folder`/root, atomically.

    Nothing is done if the folder has them. `machine`: the archives to use, by default those of this machine.
    Raises HfdlcError if the mirror is unreachable or the disk is full.
    """
    if root := unpacked(packages, folder):
        return root
    machine = machine or release()
    with state.lock("apt"):
        if root := unpacked(packages, folder):
            return root
        names = ", ".join(name for some in packages.values() for name in some)
        check_room(folder)
        say(f"downloading Debian packages into {folder}: {names}")
        began = time.monotonic()
        fresh = folder / "fresh"
        try:
            _fetch(packages, fresh, machine, state)
            root = _replace(folder, fresh, packages)
        except (CommandFailed, OSError) as error:
            raise HfdlcError(
                f"cannot download and unpack {names}\n{error}",
                location=str(folder),
                hint=advice(error),
            ) from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        say(f"downloaded and unpacked in {time.monotonic() - began:.0f} s")
        return root


def check_room(folder: Path) -> None:
    """Raise HfdlcError if there is too little disk space: apt hangs on a full disk."""
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < ROOM:
        raise HfdlcError(
            f"not enough disk space: {ROOM / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free",
            location=str(folder),
            hint=FREE_SPACE,
        )


def _mark(packages: Packages) -> str:
    return "".join(f"{name}/{suite}\n" for suite, names in packages.items() for name in names)


def _fetch(packages: Packages, fresh: Path, machine: Release, state: State) -> None:
    shutil.rmtree(fresh, ignore_errors=True)
    for part in ("debs", "root"):
        (fresh / part).mkdir(parents=True)
    for suite, names in packages.items():
        _download(suite, names, fresh / "debs", machine, state.folder(f"apt/{suite}"))
    for package in sorted((fresh / "debs").glob("*.deb")):
        run(["dpkg", "-x", str(package), str(fresh / "root")])


def _download(suite: str, names: Sequence[str], target: Path, machine: Release, own: Path) -> None:
    """Download with separate lists, sources and preferences, so that those of the machine are not used."""
    for part in ("lists/partial", "cache/archives/partial"):
        (own / part).mkdir(parents=True, exist_ok=True)
    (own / "sources.list").write_text("\n".join(machine.sources(suite)) + "\n")
    (own / "status").write_text("")
    options = {
        "Dir::State": own,
        "Dir::State::status": own / "status",
        "Dir::Cache": own / "cache",
        "Dir::Etc::sourcelist": own / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Acquire::Languages": "none",
        "Acquire::http::Timeout": 15,
        "Acquire::https::Timeout": 15,
        "APT::Sandbox::User": "root",  # apt's own user cannot write to the folder
        "APT::Update::Error-Mode": "any",  # otherwise an unreachable list is a warning
    }
    settings = own / "apt.conf"
    settings.write_text("".join(f'{name} "{value}";\n' for name, value in options.items()))
    for words in (["update"], ["download", *names]):
        run(["apt-get", "-qq", "-c", str(settings), *words], cwd=target, timeout=PATIENCE)


def _replace(folder: Path, fresh: Path, packages: Packages) -> Path:
    """Replace the root. The file `packages` is written last: a root without it is ignored."""
    root, mark = folder / "root", folder / "packages"
    mark.unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)
    (fresh / "root").rename(root)
    mark.write_text(_mark(packages))
    return root


def advice(error: Exception) -> str:
    """The hint for a failure of apt, dpkg or the disk."""
    if "no space left on device" in str(error).lower():
        return FREE_SPACE
    return "check that `apt-get update` works and that there is disk space (`df -h`), then run this again"


def network_settings() -> list[str]:
    """The settings with which apt reaches its mirror: proxies, certificates, time limits."""
    settings = run(["apt-config", "dump"]).stdout.splitlines()
    return [line for line in settings if line.startswith(("Acquire::http::", "Acquire::https::"))]


def install(packages: Sequence[str]) -> None:
    """Install missing packages as root; otherwise raise HfdlcError that names them."""
    if os.geteuid():
        raise HfdlcError(
            f"missing packages: {' '.join(packages)}", hint=f"apt-get install {' '.join(packages)}"
        )
    say(f"installing missing packages with apt-get: {' '.join(packages)}")
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    try:
        run(["apt-get", "-qq", "update"])
        run(["env", "DEBIAN_FRONTEND=noninteractive", *install])
    except CommandFailed as error:
        raise HfdlcError(f"cannot install {' '.join(packages)}\n{error}", hint=advice(error)) from error
