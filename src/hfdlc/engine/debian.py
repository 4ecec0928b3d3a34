"""Packages of the distribution, fetched into a folder and unpacked there; nothing is installed."""

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

ROOM = 700e6  # bytes: the lists of two suites, the engine's packages, and what is in them
PATIENCE = 900.0  # seconds
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
RELEASES = ("bookworm", "trixie")
ALIASES = ("stable", "oldstable")  # how a source may call the machine's release
ARCHIVES = ("", "-updates", "-security")  # what a suite's name ends with in each

FREE_SPACE = "free disk space (`df -h`), or set HFDLC_STATE to a folder on another disk; then run this again"

Packages = Mapping[str, Sequence[str]]  # by the suite that they are taken from


@dataclass(frozen=True)
class Release:
    """The Debian release of this machine, and where its apt finds it."""

    codename: str
    archives: tuple[tuple[str, str], ...]  # an ending of ARCHIVES, and the address of its archive

    def sources(self, suite: str) -> list[str]:
        """The lines of a suite of Debian, from the archives that this machine uses for its own."""
        return [f"deb [signed-by={KEYRING}] {uri} {suite}{ending} main" for ending, uri in self.archives]


def codename(os_release: Path = Path("/etc/os-release")) -> str:
    """The machine's release.

    Raises HfdlcError on anything but Debian 12 and 13.
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
    """Ask the machine's apt; its lists may be empty.

    Raises HfdlcError on anything but Debian 12 and 13, or where apt has no source.
    """
    name = codename(os_release)
    # Says where apt would fetch from, and fetches nothing; `indextargets` is silent where lists are empty.
    told = run(["apt-get", "update", "--print-uris"]).stdout
    found = re.findall(r"^'(\S+)/dists/([^/\s]+)/InRelease'", told, re.MULTILINE)
    archives = {suite: uri for uri, suite in found}
    own = next((suite for suite in (name, *ALIASES) if suite in archives), None)
    if not own:
        raise HfdlcError(f"apt has no source for {name}", hint="add it to /etc/apt/sources.list")
    return Release(name, tuple((end, archives[own + end]) for end in ARCHIVES if own + end in archives))


def unpacked(packages: Packages, folder: Path) -> Path | None:
    """The folder's root where exactly these packages lie in it."""
    mark = folder / "packages"
    return folder / "root" if mark.is_file() and mark.read_text() == _mark(packages) else None


def unpack(packages: Packages, folder: Path, machine: Release, state: State) -> Path:
    """Fetch packages with apt, which checks signatures, and unpack them into `folder`/root.

    It is there whole or not at all. Raises HfdlcError where the mirror is out of reach or the disk full.
    """
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
    """Raise HfdlcError where there is clearly too little room; apt itself waits for ever on a full disk."""
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
    """With lists, sources and preferences of its own: the machine's stay as they are, and do not matter."""
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
        "APT::Sandbox::User": "root",  # the folder is closed to apt's own user
        "APT::Update::Error-Mode": "any",  # else a list that cannot be had is only a warning
    }
    settings = own / "apt.conf"
    settings.write_text("".join(f'{name} "{value}";\n' for name, value in options.items()))
    for words in (["update"], ["download", *names]):
        run(["apt-get", "-qq", "-c", str(settings), *words], cwd=target, timeout=PATIENCE)


def _replace(folder: Path, fresh: Path, packages: Packages) -> Path:
    """Put the new root in the old one's place; without its mark a root does not count."""
    root, mark = folder / "root", folder / "packages"
    mark.unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)
    (fresh / "root").rename(root)
    mark.write_text(_mark(packages))
    return root


def advice(error: Exception) -> str:
    """What to do about a failure of apt, dpkg or the disk."""
    if "no space left on device" in str(error).lower():
        return FREE_SPACE
    return "check that `apt-get update` works and that there is disk space (`df -h`), then run this again"


def network_settings() -> list[str]:
    """How the machine's apt reaches its mirror: its proxies, certificates and time limits."""
    told = run(["apt-config", "dump"]).stdout.splitlines()
    return [line for line in told if line.startswith(("Acquire::http::", "Acquire::https::"))]


def install(packages: Sequence[str]) -> None:
    """Install packages that are missing, each named before; only where nothing else will do."""
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
