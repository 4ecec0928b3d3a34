"""Packages of the distribution, fetched into a folder and unpacked there; nothing is installed."""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hfdlc.console import say
from hfdlc.errors import CommandFailed, HfdlcError
from hfdlc.process import run

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Release:
    """The Debian release of this machine, and the mirror that its apt uses."""

    codename: str
    mirror: str


def release(os_release: Path = Path("/etc/os-release")) -> Release:
    """Ask the machine.

    Raises HfdlcError on anything but Debian 12 and 13, or where apt has no source.
    """
    lines = os_release.read_text().splitlines() if os_release.is_file() else []
    facts = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    codename = facts.get("VERSION_CODENAME", "")
    if facts.get("ID") != "debian" or codename not in ("bookworm", "trixie"):
        name = facts.get("PRETTY_NAME", "this system")
        raise HfdlcError(f"{name} is not one that packages can be taken from", allowed="Debian 12 or 13")
    targets = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)"]).stdout.splitlines()
    for uri, name in (target.split() for target in targets if len(target.split()) == 2):
        if name == codename:
            return Release(codename, uri.rstrip("/"))
    raise HfdlcError(f"apt has no source for {codename}", then="mend /etc/apt/sources.list")


def unpack(packages: Sequence[str], suites: Sequence[str], folder: Path, machine: Release) -> Path:
    """Fetch `name/suite` packages with apt, which checks signatures, and unpack them into `folder`/root.

    It is there whole or not at all. Raises HfdlcError where the mirror is out of reach or the disk full.
    """
    root = folder / "root"
    wanted = "\n".join(packages)
    mark = folder / "packages"
    if mark.is_file() and mark.read_text() == wanted:
        return root
    names = ", ".join(package.partition("/")[0] for package in packages)
    say(f"fetching from the distribution, into {folder}: {names}")
    began = time.monotonic()
    fresh = folder / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        _download(packages, suites, fresh, machine)
        for package in (fresh / "debs").glob("*.deb"):
            run(["dpkg", "-x", str(package), str(fresh / "root")])
    except (CommandFailed, OSError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise HfdlcError(
            f"{names} could not be fetched and unpacked\n{error}",
            then="see that `apt-get update` works and `df -h` shows room, then run this again",
        ) from error
    shutil.rmtree(root, ignore_errors=True)
    (fresh / "root").rename(root)
    shutil.rmtree(fresh)
    mark.write_text(wanted)
    say(f"unpacked in {time.monotonic() - began:.0f} s")
    return root


def _download(packages: Sequence[str], suites: Sequence[str], fresh: Path, machine: Release) -> None:
    for part in ("lists/partial", "cache/archives/partial", "debs", "root"):
        (fresh / part).mkdir(parents=True)
    sources = [f"deb [signed-by={KEYRING}] {machine.mirror} {suite} main\n" for suite in suites]
    (fresh / "sources.list").write_text("".join(sources))
    options = {
        "Dir::State::lists": fresh / "lists",
        "Dir::Cache": fresh / "cache",
        "Dir::Etc::sourcelist": fresh / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "APT::Sandbox::User": "root",  # the folder is closed to apt's own user
    }
    apt = ["apt-get", "-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    run([*apt, "update"])
    run([*apt, "download", *packages], cwd=fresh / "debs")


def install(packages: Sequence[str]) -> None:
    """Install packages that are missing, each named before; only where nothing else will do."""
    say(f"installing with apt-get, because they are missing: {' '.join(packages)}")
    if os.geteuid():
        raise HfdlcError("installing packages needs root", then=f"install {' '.join(packages)}")
    run(["apt-get", "-qq", "update"])
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], env=quiet)
