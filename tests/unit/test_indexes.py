"""The builder uses the configuration of pip."""

from pathlib import Path

from hfdlc.locks.indexes import IndexConfig, _settings, index_config

LISTING = """\
:env:.find-links='/wheels/env'
global.cert='/etc/ssl/bundle.crt'
global.extra-index-url='https://extra.example/simple file:///srv/simple'
global.find-links='/wheels/global'
global.index-url='https://index.example/simple'
freeze.timeout='10'
"""


def test_the_environment_wins_over_files() -> None:
    """As in pip: what `:env:` says counts more than `global`; other commands' sections do not count."""
    assert _settings(LISTING) == {
        "find-links": "/wheels/env",
        "cert": "/etc/ssl/bundle.crt",
        "extra-index-url": "https://extra.example/simple file:///srv/simple",
        "index-url": "https://index.example/simple",
    }


def test_uv_is_told_what_pip_knows() -> None:
    """Uv does not read pip's configuration, so each part becomes an argument."""
    sources = IndexConfig(
        "https://index.example/simple", ("https://extra.example/simple",), (Path("/wheels"),)
    )
    assert sources.uv_arguments() == [
        "--default-index",
        "https://index.example/simple",
        "--index",
        "https://extra.example/simple",
    ]
    assert sources.wheel_arguments() == ["--find-links", "/wheels"]


def test_the_whole_configuration_of_pip_is_read(tmp_path: Path) -> None:
    """Of .netrc only the logins of the indexes; what a build cannot get is named with the reason."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "client.pem").write_text("key")
    (tmp_path / "netrc").write_text(
        "machine index.example login reader password sesame\n"
        'machine extra.example login reader password "open sesame"\n'
        "machine other.example login me password private\n"
    )
    (tmp_path / "pip.conf").write_text(
        "[global]\n"
        "index-url = https://index.example/simple\n"
        "extra-index-url = https://extra.example/simple file:///srv/simple\n"
        f"find-links = {tmp_path}/wheels https://pages.example/ /nowhere\n"
        "trusted-host = index.example\n  extra.example:8443\n"
        "proxy = http://proxy.example:3128\n"
        f"client-cert = {tmp_path}/client.pem\n"
        "cert = /nowhere.pem\n"
        "no-index = yes\n"
        "keyring-provider = subprocess\n"
    )
    found = index_config({"PIP_CONFIG_FILE": f"{tmp_path}/pip.conf", "NETRC": f"{tmp_path}/netrc"})
    assert found.index == "https://index.example/simple"
    assert found.extra_indexes == ("https://extra.example/simple",)
    assert found.wheel_folders == (tmp_path / "wheels",)
    assert found.wheel_pages == ("https://pages.example/",)
    assert found.trusted_hosts == ("index.example", "extra.example:8443")
    assert found.no_index
    assert found.client_certificate == tmp_path / "client.pem"
    assert found.logins == {"index.example": ("reader", "sesame")}
    assert (found.proxies or {})["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert [each.partition(" (")[0] for each in found.not_passed] == [
        "extra-index-url file:///srv/simple",
        "cert /nowhere.pem",
        "find-links /nowhere",
        "keyring-provider subprocess",
        f"{tmp_path}/netrc: extra.example",
    ]
    assert "sesame" not in repr(found)


def test_damaged_netrc_is_named(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine\n")
    found = index_config({"PIP_CONFIG_FILE": "/dev/null", "HOME": str(tmp_path)})
    assert found.not_passed[0].startswith(f"{tmp_path}/.netrc (")


def test_uv_gets_the_folders_of_no_index(tmp_path: Path) -> None:
    sources = IndexConfig(wheel_folders=(tmp_path,), no_index=True, trusted_hosts=("a.example",))
    expected = ["--allow-insecure-host", "a.example", "--no-index", "--find-links", str(tmp_path)]
    assert sources.uv_arguments() == expected
