"""The package indexes of this machine, from pip's configuration."""

import ast
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from hfdlc.process import run

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
TRUE = ("y", "yes", "t", "true", "on", "1")  # as pip reads them


@dataclass(frozen=True)
class IndexConfig:
    """The package indexes of this machine, and how to reach them."""

    index: str | None = None  # None: the default of the client
    extra_indexes: tuple[str, ...] = ()
    wheel_folders: tuple[Path, ...] = ()
    wheel_pages: tuple[str, ...] = ()  # URLs of find-links
    no_index: bool = False  # only wheel folders and pages are used
    trusted_hosts: tuple[str, ...] = ()  # without valid certificates
    certificates: Path | None = None  # a bundle other than the distribution's
    client_certificate: Path | None = None  # with its private key
    logins: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)  # by host, from .netrc
    proxies: Mapping[str, str] | None = None
    not_passed: tuple[str, ...] = ()  # settings that a build cannot get

    def uv_arguments(self) -> list[str]:
        """The indexes as options of uv, which does not read pip's configuration."""
        options = [("--default-index", self.index)] if self.index else []
        options += [("--index", url) for url in self.extra_indexes]
        options += [("--find-links", url) for url in self.wheel_pages]
        options += [("--allow-insecure-host", host) for host in self.trusted_hosts]
        found = [word for option in options for word in option]
        return [*found, "--no-index", *self.wheel_arguments()] if self.no_index else found

    def wheel_arguments(self) -> list[str]:
        """The wheel folders as options of uv."""
        return [word for folder in self.wheel_folders for word in ("--find-links", str(folder))]


class DefaultIndex(NamedTuple):
    """The index that pip uses without a configuration."""

    url: str
    hosts: tuple[str, str]  # of the index and of its files


def default_index() -> DefaultIndex:
    """What the installed pip has built in."""
    found = importlib.import_module("pip._internal.models.index").PyPI
    return DefaultIndex(found.url, (found.netloc, found.file_storage_domain))


def index_config(environ: Mapping[str, str]) -> IndexConfig:
    """Read pip's configuration files and environment variables, and .netrc."""
    settings = _settings(run([sys.executable, "-m", "pip", "config", "list"], env=environ).stdout)
    bundle = settings.get("cert") or next((environ[name] for name in BUNDLES if environ.get(name)), None)
    client = settings.get("client-cert")
    links = settings.get("find-links", "").split()
    pages = [word for word in links if word.startswith(("http:", "https:"))]
    folders = [Path(word.removeprefix("file://")) for word in links if word not in pages]
    index, extra = settings.get("index-url"), settings.get("extra-index-url", "").split()
    hosts = {urlsplit(url).hostname for url in (index or default_index().url, *extra, *pages)}
    logins, unusable = _logins(environ, hosts)
    proxies = {name: environ[name] for name in PROXIES if environ.get(name)}
    if proxy := settings.get("proxy"):
        proxies |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), proxy)
    return IndexConfig(
        index=None if index and _is_local(index) else index,
        extra_indexes=tuple(url for url in extra if not _is_local(url)),
        wheel_folders=tuple(folder for folder in dict.fromkeys(folders) if folder.is_dir()),
        wheel_pages=tuple(dict.fromkeys(pages)),
        no_index=settings.get("no-index", "").lower() in TRUE,
        trusted_hosts=tuple(dict.fromkeys(settings.get("trusted-host", "").split())),
        certificates=Path(bundle) if bundle and Path(bundle).is_file() else None,
        client_certificate=Path(client) if client and Path(client).is_file() else None,
        logins=logins,
        proxies=proxies,
        not_passed=(*_not_passed(settings), *unusable),
    )


def _not_passed(settings: Mapping[str, str]) -> Iterator[str]:
    """What a build cannot get, each with the reason."""
    for name in ("index-url", "extra-index-url"):
        for url in filter(_is_local, settings.get(name, "").split()):
            yield f"{name} {url} (an index in a folder of this machine)"
    for name in ("cert", "client-cert"):
        if (file := settings.get(name)) and not Path(file).is_file():
            yield f"{name} {file} (there is no such file)"
    for word in settings.get("find-links", "").split():
        if "http" not in word[:4] and not Path(word.removeprefix("file://")).is_dir():
            yield f"find-links {word} (there is no such folder)"
    if (provider := settings.get("keyring-provider", "auto")) not in ("auto", "disabled"):
        yield f"keyring-provider {provider} (put user and password into the URL of the index, or into .netrc)"


def _is_local(url: str) -> bool:
    """Whether an index is in a folder: containers cannot read it."""
    return "file:" in url or "://" not in url


def _logins(
    environ: Mapping[str, str], hosts: Iterable[str | None]
) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """User and password of the indexes' hosts from .netrc, and what of it cannot be used."""
    file = Path(environ.get("NETRC") or Path(environ.get("HOME", "/root"), ".netrc"))
    if not file.is_file():
        return {}, []
    try:
        known = netrc(str(file)).hosts
    except (NetrcParseError, OSError, UnicodeDecodeError) as error:
        return {}, [f"{file} ({error})"]
    found = {host: known[host] for host in sorted(filter(None, hosts)) if host in known}
    # uv's reader of .netrc knows no quotes.
    odd = [host for host, each in found.items() if set("".join(map(str, each))) & set(" \t\"'#\\")]
    logins = {host: (each[0], each[2] or "") for host, each in found.items() if host not in odd}
    return logins, [f"{file}: {host} (a user or password with spaces, quotes or #)" for host in odd]


def _settings(listing: str) -> dict[str, str]:
    """The options of `pip config list` (`global.index-url='…'`), with pip's order of precedence."""
    found: dict[str, str] = {}
    rank = {"global": 0, "install": 1, ":env:": 2}
    lines = [line.partition("=") for line in listing.splitlines() if "=" in line]
    by_section = [(*name.rpartition("."), value) for name, _, value in lines]
    for section, _, option, value in sorted(by_section, key=lambda line: rank.get(line[0], 0)):
        if section in rank:
            found[option] = str(ast.literal_eval(value))
    return found
