"""Locks that uv resolves with the package index of this machine."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from hfdlc.build import packages
from hfdlc.errors import HfdlcError
from hfdlc.locks import lockfile, resolver
from hfdlc.locks.indexes import IndexConfig, index_config
from hfdlc.locks.resolver import Resolver
from hfdlc.state import State


def test_another_uv_makes_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names both releases, and what to install."""
    program = tmp_path / "uv"
    program.write_text("#!/bin/sh\necho uv 0.1.2\n")
    program.chmod(0o755)
    monkeypatch.setattr("uv.find_uv_bin", lambda: str(program))
    resolver._program.cache_clear()
    wanted = lockfile.LockInput(("idna",), "3.11", "x86_64-manylinux_2_28", "2026-06-01")
    with pytest.raises(
        HfdlcError, match=r"locks are made with uv \d+\.\d+\.\d+, and this is 0\.1\.2"
    ) as caught:
        Resolver(IndexConfig(), State(tmp_path), {}).resolve(wanted, wanted.requirements)
    assert "hint: pip install uv==" in str(caught.value)
    resolver._program.cache_clear()


def test_page_that_answers_without_the_version_is_an_error(tmp_path: Path) -> None:
    """A typo in a local version counted as an unreachable page: an incomplete lock, and exit code 0."""
    found = Resolver(IndexConfig(no_index=True), State(tmp_path / "state"), os.environ)
    typo = ("torch==2.13.0+cpy",)
    wanted = lockfile.LockInput(typo, "3.11", "x86_64-manylinux_2_28", "2026-06-01", framework=typo)
    with packages.served(tmp_path) as page:
        wanted = replace(wanted, page=page)
        with pytest.raises(HfdlcError, match=r"no solution for Python 3\.11"):
            found.reaches(wanted)
    assert not found.reaches(wanted)


def test_a_lock_does_not_depend_on_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of uv in files and variables, another virtual environment, and other time zones."""
    wanted = lockfile.LockInput(("packaging", "idna"), "3.11", "x86_64-manylinux_2_28", "2026-06-01")
    sources = index_config(os.environ)

    def locked(**more: str) -> str:
        environ = {**os.environ, **more}
        found = Resolver(sources, State(tmp_path / "state"), environ)
        return lockfile.text(found.resolve(wanted, wanted.requirements))

    expected = locked()
    settings = 'resolution = "lowest"\nprerelease = "allow"\nexclude-newer = "2020-01-01"\n'
    for folder in ("home/.config/uv", "here"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "uv.toml").write_text(settings)
    monkeypatch.chdir(tmp_path / "here")
    home = str(tmp_path / "home")
    hostile = {"UV_RESOLUTION": "lowest", "UV_EXCLUDE_NEWER": "2020-01-01", "UV_NO_BINARY": "1"}
    hostile |= {"UV_CONFIG_FILE": f"{home}/.config/uv/uv.toml", "UV_CONSTRAINT": "/nowhere", "PIP_PRE": "1"}
    for zone in ("Pacific/Kiritimati", "America/Los_Angeles"):
        assert locked(HOME=home, XDG_CONFIG_HOME=f"{home}/.config", TZ=zone, **hostile) == expected
