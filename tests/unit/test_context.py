"""The engine's address is the one that Docker's own client would use."""

import hashlib
import json
from pathlib import Path

import pytest

from hfdlc.engine import context as address
from hfdlc.engine.context import DEFAULT_SOCKET, Address
from hfdlc.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of this process, where docker-py reads contexts."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    return tmp_path


def context(home: Path, name: str, host: str) -> Path:
    """Write a context as `docker context create` does; the folder of its certificates."""
    key = hashlib.sha256(name.encode()).hexdigest()
    meta = home / ".docker" / "contexts" / "meta" / key
    meta.mkdir(parents=True)
    described = {
        "Name": name,
        "Metadata": {},
        "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}},
    }
    (meta / "meta.json").write_text(json.dumps(described))
    (home / ".docker" / "config.json").write_text("{}")
    return home / ".docker" / "contexts" / "tls" / key / "docker"


def test_without_any_setting_it_is_the_default_socket(tmp_path: Path) -> None:
    """No variable, no configuration."""
    assert address.of_machine({"HOME": str(tmp_path)}) == Address(DEFAULT_SOCKET)


def test_the_current_context_is_followed(tmp_path: Path) -> None:
    """`docker context use` writes its name into the configuration."""
    context(tmp_path, "rootless", "unix:///run/user/1000/docker.sock")
    (tmp_path / ".docker" / "config.json").write_text('{"currentContext": "rootless"}')
    assert address.of_machine({"HOME": str(tmp_path)}) == Address("unix:///run/user/1000/docker.sock")


def test_a_variable_names_another_context(tmp_path: Path) -> None:
    """DOCKER_CONTEXT goes before the configuration."""
    context(tmp_path, "rootless", "unix:///run/user/1000/docker.sock")
    (tmp_path / ".docker" / "config.json").write_text('{"currentContext": "default"}')
    found = address.of_machine({"HOME": str(tmp_path), "DOCKER_CONTEXT": "rootless"})
    assert found.host == "unix:///run/user/1000/docker.sock"


def test_docker_host_goes_before_every_context(tmp_path: Path) -> None:
    """As it does for Docker's own client."""
    context(tmp_path, "far", "tcp://far.example:2376")
    environ = {"HOME": str(tmp_path), "DOCKER_CONTEXT": "far", "DOCKER_HOST": "tcp://near.example:2375"}
    assert address.of_machine(environ) == Address("tcp://near.example:2375", verify=False)


def test_certificates_of_a_context_are_used(tmp_path: Path) -> None:
    """A context keeps them in a folder of its own."""
    folder = context(tmp_path, "far", "tcp://far.example:2376")
    folder.mkdir(parents=True)
    for name in ("ca", "cert", "key"):
        (folder / f"{name}.pem").write_text("")
    found = address.of_machine({"DOCKER_CONTEXT": "far"})
    assert found == Address("tcp://far.example:2376", folder)


@pytest.mark.parametrize(("text", "said"), [(None, "does not exist"), ("{", "cannot be read")])
def test_unusable_context_is_named(text: str | None, said: str, tmp_path: Path) -> None:
    """No other engine is used in its place."""
    context(tmp_path, "other", "unix:///other.sock")
    if text:
        context(tmp_path, "far", "tcp://far.example:2376")
        (meta,) = (tmp_path / ".docker/contexts/meta").glob(f"{hashlib.sha256(b'far').hexdigest()}/meta.json")
        meta.write_text(text)
    with pytest.raises(UserError, match=f"Docker context 'far': {said}"):
        address.of_machine({"DOCKER_CONTEXT": "far"})


def test_certificates_of_the_environment_are_used() -> None:
    """The variables that a CI service with an engine beside it sets."""
    environ = {
        "DOCKER_HOST": "tcp://docker:2376",
        "DOCKER_CERT_PATH": "/certs/client",
        "DOCKER_TLS_VERIFY": "1",
    }
    assert address.of_machine(environ) == Address("tcp://docker:2376", Path("/certs/client"))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"currentContext": null}'])
def test_a_broken_configuration_counts_as_none(content: str, home: Path) -> None:
    """Docker's own client goes on, too."""
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text(content)
    assert address.of_machine({}) == Address(DEFAULT_SOCKET)


def test_programs_get_no_other_engine() -> None:
    """The private engine is reached even where the environment has certificates for another one."""
    assert Address("unix:///state/docker.sock").environment == {
        "DOCKER_HOST": "unix:///state/docker.sock",
        "DOCKER_CONTEXT": "",
        "DOCKER_CERT_PATH": "",
        "DOCKER_TLS_VERIFY": "",
        "DOCKER_TLS": "",
    }
