"""How the machine's apt is called, and how its output is used."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from hfdlc.engine import debian
from hfdlc.engine.debian import Release
from hfdlc.errors import CommandFailed, HfdlcError
from hfdlc.state import State

BOOKWORM = 'ID=debian\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'
MIRROR = "http://mirror.example/debian"
PACKAGES = {"trixie": ("docker.io", "tini"), "bookworm": ("runc",)}


@pytest.fixture
def os_release(tmp_path: Path) -> Path:
    file = tmp_path / "os-release"
    file.write_text(BOOKWORM)
    return file


def answering(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs print a text instead of being started."""

    def run(argv: Sequence[str], **_: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(argv, 0, output, "")

    monkeypatch.setattr(debian, "run", run)


def test_the_archives_are_the_machines_own(os_release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Security updates are taken where the machine takes them; backports and strangers are not."""
    answering(
        f"'{MIRROR}/dists/bookworm/InRelease' mirror_InRelease 0 \n"
        "'http://safe.example/debian-security/dists/bookworm-security/InRelease' safe_InRelease 0 \n"
        f"'{MIRROR}/dists/bookworm-backports/InRelease' mirror_InRelease 0 \n"
        "'http://other.example/dists/nodistro/InRelease' other_InRelease 0 \n"
        f"'{MIRROR}/dists/bookworm/main/binary-amd64/Packages.xz' mirror_Packages 0 \n",
        monkeypatch,
    )
    release = debian.release(os_release)
    safe = "http://safe.example/debian-security"
    assert release == Release("bookworm", (("", MIRROR), ("-security", safe)))
    assert release.sources("trixie") == [
        f"deb [signed-by={debian.KEYRING}] {MIRROR} trixie main",
        f"deb [signed-by={debian.KEYRING}] {safe} trixie-security main",
    ]


def test_a_source_may_call_the_release_stable(os_release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the machine's own release all the same."""
    answering(f"'{MIRROR}/dists/oldstable/InRelease' mirror_InRelease 0 \n", monkeypatch)
    assert debian.release(os_release) == Release("bookworm", (("", MIRROR),))


def test_missing_apt_source_is_an_error(os_release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty sources.list."""
    answering("", monkeypatch)
    with pytest.raises(HfdlcError, match="apt has no source for bookworm\n  hint: add it"):
        debian.release(os_release)


def test_what_was_unpacked_counts_only_for_the_same_packages(tmp_path: Path) -> None:
    """Another list is fetched anew."""
    assert debian.unpacked(PACKAGES, tmp_path) is None
    (tmp_path / "packages").write_text("docker.io/trixie\ntini/trixie\nrunc/bookworm\n")
    assert debian.unpacked(PACKAGES, tmp_path) == tmp_path / "root"
    assert debian.unpacked({"trixie": ("docker.io",)}, tmp_path) is None


def test_failed_unpacking_leaves_the_folder_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: what was there stays, nothing new is there, and the message says what to do."""
    folder = tmp_path / "engine"
    (folder / "root").mkdir(parents=True)

    def full(argv: Sequence[str], **_: object) -> None:
        raise CommandFailed(argv, 100, "E: write (28: No space left on device)")

    monkeypatch.setattr(debian, "run", full)
    with pytest.raises(HfdlcError, match="hint: free disk space") as caught:
        debian.unpack(PACKAGES, folder, State(tmp_path), Release("bookworm", (("", MIRROR),)))
    assert "cannot download and unpack docker.io, tini, runc" in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["root"]


def test_apt_reads_settings_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lists, sources and preferences are the folder's; the same for both of its steps."""
    request: list[list[str]] = []

    def run(argv: Sequence[str], **_: object) -> "subprocess.CompletedProcess[str]":
        request.append(list(argv))
        return subprocess.CompletedProcess(argv, 0, "", "")

    monkeypatch.setattr(debian, "run", run)
    state = State(tmp_path)
    machine = Release("bookworm", (("", MIRROR),))
    root = debian.unpack({"trixie": ("tini",)}, tmp_path / "tools", state, machine)
    settings = tmp_path / "apt" / "trixie" / "apt.conf"
    assert request == [
        ["apt-get", "-qq", "-c", str(settings), "update"],
        ["apt-get", "-qq", "-c", str(settings), "download", "tini"],
    ]
    assert f'Dir::State "{settings.parent}";' in settings.read_text()
    assert 'Dir::Etc::sourceparts "/dev/null";' in settings.read_text()
    assert root.is_dir()
    assert debian.unpack({"trixie": ("tini",)}, tmp_path / "tools", state) == root, "nothing is run again"
    assert len(request) == 2


def test_proxies_of_apt_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """How the mirror is reached, and nothing else of apt's configuration."""
    answering(
        'APT "";\nAcquire::http::Proxy "http://proxy.example:3128";\nAcquire::Retries "3";\n', monkeypatch
    )
    assert debian.network_settings() == ['Acquire::http::Proxy "http://proxy.example:3128";']


def test_installing_without_root_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(HfdlcError, match="missing packages: perl\n  hint: apt-get install perl"):
        debian.install(["perl"])


def test_packages_are_named_before_they_are_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, even where the installation then fails."""

    def fail(argv: Sequence[str], **_: object) -> None:
        assert "installing missing packages with apt-get: perl" in capsys.readouterr().err
        raise CommandFailed(argv, 100, "E: no")

    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(debian, "run", fail)
    with pytest.raises(HfdlcError, match="cannot install perl"):
        debian.install(["perl"])
