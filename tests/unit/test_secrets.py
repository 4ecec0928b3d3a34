"""What of a machine's configuration must not stay in an image, and how layers are searched for it."""

import base64
import gzip
import io
import tarfile
from pathlib import Path

import pytest
from backports import zstd

from hfdlc.checks import layers, secrets
from hfdlc.checks.secrets import Apt, Public
from hfdlc.locks.indexes import IndexConfig

PUBLIC = Public(frozenset({"public.example"}))


def texts(apt: Apt = Apt(), **sources: object) -> set[str]:  # noqa: B008 - it is frozen
    return {text.decode() for text in secrets.forbidden_strings(IndexConfig(**sources), apt, PUBLIC)}  # type: ignore[arg-type]


def test_nothing_configured() -> None:
    """A machine like any other has nothing to hide."""
    assert texts() == set()


def test_an_index_of_ones_own() -> None:
    """Its host and the password, wherever they turn up; a user's name may be any word."""
    assert texts(index="https://reader:open-sesame@wheels.corp.example:8443/simple") == {
        "wheels.corp.example",
        "open-sesame",
    }
    assert texts(extra_indexes=("https://token@wheels.corp.example/simple",)) == {
        "wheels.corp.example",
        "token",
    }


def test_a_public_index_is_no_secret() -> None:
    """Naming the public index in a configuration tells nothing; credentials for it do."""
    assert texts(index="https://files.public.example/simple") == set()
    assert texts(index="https://u:open-sesame@public.example/simple") == {"open-sesame"}


def test_addresses_that_mean_something_everywhere() -> None:
    """`localhost` alone is in every second package: only the whole address tells."""
    assert texts(index="http://localhost:3141/root/simple/") == {"http://localhost:3141/root/simple"}
    assert texts(proxies={"HTTP_PROXY": "http://10.0.0.1:3128", "no_proxy": "localhost,127.0.0.1"}) == {
        "http://10.0.0.1:3128"
    }


def test_apt_is_asked_too() -> None:
    """Its proxies and mirrors are the machine's, the distribution's own mirrors are not."""
    apt = Apt(
        ("http://cache.corp.example:3142",),
        ("http://deb.public.example/debian", "http://mirror.corp.example/d"),
    )
    assert texts(apt) == {"cache.corp.example", "mirror.corp.example"}


def test_folders_of_wheels() -> None:
    """Where the machine keeps wheels."""
    assert texts(wheel_folders=(Path("/srv/wheels"),)) == {"/srv/wheels"}


def pem(letter: bytes) -> tuple[bytes, str]:
    """A certificate's form: DER, and text."""
    der = letter * 120
    lines = base64.b64encode(der).decode()
    body = "\n".join(lines[start : start + 64] for start in range(0, len(lines), 64))
    return der, f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"


def test_certificates_that_only_the_machine_trusts(tmp_path: Path) -> None:
    """Public roots are no secret; the rest of the bundle is, and so is a bundle's own place."""
    (public, public_text), (_, own_text) = pem(b"a"), pem(b"b")
    bundle = tmp_path / "bundle.crt"
    bundle.write_text(public_text + own_text)
    known = Public(certificates=frozenset({public}))
    found = secrets.forbidden_strings(IndexConfig(certificates=bundle), Apt(), known)
    place, line = sorted(text.decode() for text in found)
    assert place == str(bundle)
    assert line in own_text
    assert line not in public_text


def test_variables_that_configure_packages() -> None:
    """They must not be in an image's environment, whatever their value."""
    assert secrets.settings(["PATH=/bin", "https_proxy=", "PIP_INDEX_URL=x", "HF_HOME=/tmp"]) == [
        "https_proxy",
        "PIP_INDEX_URL",
    ]


def layer(files: dict[str, bytes]) -> bytes:
    """A layer's archive."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return archive.getvalue()


class Image:
    """An image that comes as an archive."""

    id = "sha256:0"

    def __init__(self, *blobs: bytes) -> None:
        self.blobs = {f"blobs/sha256/{index}": blob for index, blob in enumerate(blobs)}

    def save(self) -> list[bytes]:
        """In pieces."""
        return [layer(self.blobs)]


class Client:
    """An engine whose store is elsewhere."""

    def info(self) -> dict[str, str]:
        """Where it keeps images."""
        return {"DockerRootDir": "/nowhere"}


def found(folder: Path, *blobs: bytes) -> list[str]:
    image = Image(*blobs)
    return [str(item) for item in layers.search(Client(), image, {b"open-sesame": "a key"}, folder)]  # type: ignore[arg-type]


def test_the_file_is_named(tmp_path: Path) -> None:
    """Plain layers and compressed ones are searched alike."""
    files = {"etc/first": b"x" * 600, "etc/leaked": b"key = open-sesame", "etc/last": b"y"}
    plain = layer(files)
    expected = [f"a key in /etc/leaked of blobs/sha256/{number}" for number in range(3)]
    assert found(tmp_path, plain, gzip.compress(plain), zstd.compress(plain)) == expected


def test_pieces_overlap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What lies across the end of a piece is found, and the file's header may lie in an earlier piece."""
    blob = layer({"etc/leaked": b"-" * 4000 + b"open-sesame"})
    for size in (100, 512, 1000, 4512 + 4):
        monkeypatch.setattr(layers, "PIECE", size)
        assert len(found(tmp_path, blob)) == 1


def test_passwords_and_pages_of_the_machine_are_forbidden() -> None:
    found = texts(logins={"index.example": ("reader", "sesame")}, wheel_pages=("https://pages.example/",))
    assert {"sesame", "pages.example"} <= found


def test_password_is_not_part_of_a_report() -> None:
    """It was printed, and kept with the results of the checks."""
    index, logins = "https://reader:open-sesame@wheels.corp.example/", {"index.example": ("me", "private")}
    forbidden = secrets.forbidden_strings(IndexConfig(index, logins=logins), Apt(), PUBLIC)
    found = secrets.found_in(f"ARG URL={index} ENV PASSWORD=private".encode(), forbidden)
    assert sorted(found) == [
        "a package index (wheels.corp.example)",
        "a password of .netrc",
        "a password of a package index",
    ]
