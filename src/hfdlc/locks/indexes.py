"""The package indexes of this machine, from pip's configuration."""

import ast
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hfdlc.process import run

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True)
class IndexConfig:
    """The package indexes of this machine, and how to reach them."""

    index: str | None = None  # None: the default of the client
    extra_indexes: tuple[str, ...] = ()
    wheel_folders: tuple[Path, ...] = ()
    certificates: Path | None = None  # a bundle other than the distribution's
    proxies: Mapping[str, str] | None = None

    def uv_arguments(self) -> list[str]:
        """The indexes as options of uv, which does not read pip's configuration."""
        index = ["--default-index", self.index] if self.index else []
        return [*index, *(word for url in self.extra_indexes for word in ("--index", url))]

    def wheel_arguments(self) -> list[str]:
        """The wheel folders as options of uv."""
        return [word for folder in self.wheel_folders for word in ("--find-links", str(folder))]


def index_config(environ: Mapping[str, str]) -> IndexConfig:
    """Read pip's configuration files and environment variables."""
    settings = _settings(run([sys.executable, "-m", "pip", "config", "list"], env=environ).stdout)
    bundle = settings.get("cert") or next((environ[name] for name in BUNDLES if environ.get(name)), None)
    folders = [Path(word.removeprefix("file://")) for word in settings.get("find-links", "").split()]
    return IndexConfig(
        index=settings.get("index-url"),
        # Containers cannot read an index in a folder of this machine.
        extra_indexes=tuple(url for url in settings.get("extra-index-url", "").split() if "file:" not in url),
        wheel_folders=tuple(folder for folder in dict.fromkeys(folders) if folder.is_dir()),
        certificates=Path(bundle) if bundle and Path(bundle).is_file() else None,
        proxies={name: environ[name] for name in PROXIES if environ.get(name)},
    )


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
