"""The package configuration of the building machine, which must not be in an image."""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import certifi

from hfdlc.errors import HfdlcError
from hfdlc.locks.indexes import IndexConfig, default_index
from hfdlc.process import run

PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
PROXY = re.compile(r'^Acquire::\w+::Proxy(?:::[^ ]*)? "(?P<url>\S+://\S+)";', re.MULTILINE)
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")  # where every distribution has one
HIDDEN = "a password"  # descriptions of strings that no report may have begin with it


@dataclass(frozen=True)
class Apt:
    """The configuration of this machine's apt."""

    proxies: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Public:
    """Hosts and certificates that are public, and so reveal nothing about a machine."""

    hosts: frozenset[str] = frozenset()  # including subdomains
    certificates: frozenset[bytes] = frozenset()  # DER


def apt() -> Apt:
    """Read apt's configuration; empty if the machine has no apt."""
    try:
        proxies = PROXY.findall(run(["apt-config", "dump"]).stdout)
        mirrors = run(["apt-get", "indextargets", "--format", "$(REPO_URI)"]).stdout
    except HfdlcError:
        return Apt()
    return Apt(tuple(proxies), tuple(dict.fromkeys(mirrors.split())))


def public(os_release: Path = Path("/etc/os-release")) -> Public:
    """The hosts of pip's default index and of this machine's distribution, and public certificates."""
    hosts = {*default_index().hosts}
    home = re.search(r'^HOME_URL="?https?://([^/"\s]+)', os_release.read_text(), re.MULTILINE)
    if home:
        hosts.add(".".join(home[1].split(".")[-2:]))
    roots = [Path(certifi.where()), *Path("/usr/share/ca-certificates").rglob("*.crt")]
    return Public(frozenset(hosts), frozenset(found for file in roots for found in certificates(file)))


def certificates(bundle: Path) -> dict[bytes, bytes]:
    """The certificates of a bundle: DER, and the last full line (64 characters) of its text."""
    texts = [text.split() for text in PEM.findall(bundle.read_bytes())]
    whole = {b"".join(lines): [line for line in lines if len(line) == 64] for lines in texts}
    return {_der(text): lines[-1] for text, lines in whole.items() if lines}


def _der(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4))


def forbidden_strings(sources: IndexConfig, apt: Apt, known: Public) -> dict[bytes, str]:
    """Strings that must be in no layer and in no history, each with what it is."""
    proxies = {name: url for name, url in (sources.proxies or {}).items() if name.lower() != "no_proxy"}
    urls = [
        (url, "a package index")
        for url in (sources.index, *sources.extra_indexes, *sources.wheel_pages)
        if url
    ]
    urls += [(url, "a proxy") for url in (*proxies.values(), *apt.proxies)]
    urls += [(url, "a mirror of the distribution") for url in apt.mirrors]
    found = {text.encode(): what for url, what in urls for text in _revealing(url, known.hosts)}
    found |= {word.encode(): f"{HIDDEN} of {what}" for url, what in urls if (word := _password(url))}
    found |= {str(folder).encode(): "a folder of wheels" for folder in sources.wheel_folders}
    found |= {word.encode(): f"{HIDDEN} of .netrc" for _, word in sources.logins.values() if word}
    if sources.client_certificate:
        found |= _own(sources.client_certificate, ())
    if sources.certificates:
        found |= _own(sources.certificates, known.certificates)
    return found


def _own(bundle: Path, known: Iterable[bytes]) -> dict[bytes, str]:
    what = {der: line for der, line in certificates(bundle).items() if der not in set(known)}
    found = dict.fromkeys(what.values(), "a certificate that only this machine trusts")
    if bundle != BUNDLE:
        found[str(bundle).encode()] = "the path of the machine's certificates"
    return found


def _revealing(url: str, public_hosts: Iterable[str]) -> Iterator[str]:
    """The host of a URL, if it is not public."""
    parts = _parts(url)
    host = parts.hostname or ""
    if not host or any(host == known or host.endswith(f".{known}") for known in public_hosts):
        return
    if _is_local(host):  # the host alone is in the documentation of many packages
        yield f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
    else:
        yield host


def _password(url: str) -> str | None:
    """The password in a URL, or a token; a name beside a password may be any word."""
    return _parts(url).password or _parts(url).username


def _parts(url: str) -> SplitResult:
    return urlsplit(url if "://" in url else f"//{url}")


def _is_local(host: str) -> bool:
    """Whether a host differs from machine to machine: an IP address, or a name without a dot."""
    try:
        ip_address(host)
    except ValueError:
        return "." not in host
    return True


def settings(environment: Iterable[str]) -> list[str]:
    """The environment variables of an image that configure package access."""
    names = (variable.partition("=")[0] for variable in environment)
    ours = re.compile(
        r"(HTTPS?_PROXY|NO_PROXY|ALL_PROXY|PIP_\w+|UV_\w+|SSL_CERT_\w+|\w+_CA_BUNDLE)", re.IGNORECASE
    )
    return [name for name in names if ours.fullmatch(name)]


def found_in(text: bytes, forbidden: Mapping[bytes, str]) -> list[str]:
    """The forbidden strings that a text contains; passwords are only described, because reports are kept."""
    found = [(each.decode(errors="replace"), what) for each, what in forbidden.items() if each in text]
    return [what if what.startswith(HIDDEN) else f"{what} ({each})" for each, what in found]
