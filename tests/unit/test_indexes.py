"""pip's own configuration is what the builder goes by."""

from pathlib import Path

from hfdlc.locks.indexes import IndexConfig, _settings

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
