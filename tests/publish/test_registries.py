"""Registries that differ from each other: Docker Hub, without TLS, without mounts, behind a helper."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hfdlc.errors import HfdlcError
from hfdlc.oci.registry import Registry
from hfdlc.publish import targets
from parts import Hfdlc, Small, fine, serving
from proxy import Proxy


@pytest.fixture
def http_only(registry_program: str, tmp_path: Path) -> Iterator[str]:
    """A registry without TLS whose name does not say that it is on this machine."""
    with serving(registry_program, tmp_path / "http-only", "0.0.0.0") as host:
        yield host


def test_docker_io_is_docker_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its registry has another host, and its login another name."""
    hub = targets.of_address("docker.io/team").registry
    assert (hub.http.root, hub.name("image")) == ("https://registry-1.docker.io", "team/image")
    login = {"https://index.docker.io/v1/": {"auth": "dXNlcjp3b3Jk"}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": login}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert targets._docker_credentials("docker.io") == ("user", "word")


@pytest.mark.engine
def test_registry_without_tls_needs_an_option(small: Small, hfdlc: Hfdlc, http_only: str) -> None:
    """Without the option the error names it."""
    cell = small.project.default
    small.image(cell)
    ended = hfdlc("publish", "--registry", http_only)
    assert ended.returncode == 1
    assert f"{http_only}: this registry answers with http, not https" in ended.stderr
    assert "hint: add --plain-http" in ended.stderr
    assert "Traceback" not in ended.stderr
    fine(hfdlc("publish", "--registry", f"{http_only}/team", "--plain-http"))
    fine(hfdlc("verify", f"{http_only}/team/{cell.id}", "--plain-http"))
    again = fine(hfdlc("publish", "--registry", f"{http_only}/team", "--plain-http"))
    assert "up to date" in again.stdout


def test_registry_that_the_engine_lists_as_insecure_is_used_without_tls(http_only: str) -> None:
    """If it has no TLS. Others are used with TLS."""

    class Engine:
        """An engine that lists one host."""

        def is_insecure(self, host: str) -> bool:
            return host == http_only

    engine: Any = Engine()
    address = targets.without_tls(f"{http_only}/team", engine)
    assert address == f"http://{http_only}/team"
    target = targets.of_address(address)
    assert target.name == f"{http_only}/team"
    assert target.registry.head("image", "tag") is None
    assert targets.without_tls("other:5000", engine) == "other:5000"
    assert targets.without_tls(f"{http_only}/team", None) == f"{http_only}/team"


def test_certificate_that_is_not_valid_is_reported(proxied: Proxy) -> None:
    """Not as a registry without TLS."""
    with pytest.raises(HfdlcError, match="this registry answers with http") as caught:
        Registry(proxied.host.replace("127.0.0.1", "0.0.0.0")).head("image", "tag")
    assert "--plain-http" in str(caught.value)


@pytest.mark.engine
def test_upload_that_a_mount_began_is_used(small: Small, hfdlc: Hfdlc, proxied: Proxy) -> None:
    """Each blob is one upload: none is begun twice or cancelled."""
    one, other = small.project.cells[0], next(c for c in small.cells if c.type == "training")
    for cell in (one, other):
        small.image(cell, ballast=1_000_000)
    proxied.does.no_mounts = True
    fine(hfdlc("publish", one.id, "--registry", proxied.host))
    proxied.does.log.clear()
    fine(hfdlc("publish", other.id, "--registry", proxied.host))
    begun = [line for line in proxied.does.log if line.startswith("POST ")]
    ended = [line for line in proxied.does.log if re.match(r"PUT .*/blobs/uploads/", line)]
    assert any("mount=" in line for line in begun)
    assert len(begun) == len(ended)
    assert not [line for line in proxied.does.log if line.startswith("DELETE ")]
    fine(hfdlc("verify", f"{proxied.host}/{other.id}"))


@pytest.mark.engine
def test_missing_credential_helper_is_named(
    small: Small, hfdlc: Hfdlc, proxied: Proxy, tmp_path: Path
) -> None:
    """Only where the registry asks for a login."""
    small.image(small.project.default)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text('{"credsStore": "nowhere"}')
    environ = {"DOCKER_CONFIG": str(tmp_path / "config")}
    proxied.does.passwords = ("word",)
    ended = hfdlc("publish", "--registry", proxied.host, environ=environ)
    assert ended.returncode == 1
    assert "docker-credential-nowhere" in ended.stderr
    assert "hint: install docker-credential-NAME" in ended.stderr
    assert "Traceback" not in ended.stderr
    proxied.does.passwords = ()
    fine(hfdlc("publish", "--registry", proxied.host, environ=environ))
