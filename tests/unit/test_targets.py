"""Targets: the registries that options name, and the repositories in them."""

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import requests

from hfdlc.errors import UserError
from hfdlc.oci.registry import Registry
from hfdlc.publish import targets
from hfdlc.publish.targets import Target

if TYPE_CHECKING:
    from hfdlc.engine.detect import Engine


class Kind:
    """A kind of registry whose repositories must be created."""

    def __init__(self) -> None:
        self.existing, self.requests = {"prefix/there"}, 0

    def has(self, repository: str) -> bool:
        self.requests += 1
        return repository in self.existing

    def ensure(self, repository: str) -> bool:
        self.existing.add(repository)
        return True


def test_missing_repository_is_created_once() -> None:
    """Under the registry's prefix; what is known of it is not requested again."""
    kind = Kind()
    target = Target("name", Registry("host/prefix"), kind)
    assert (target.has("there"), target.has("new")) == (True, False)
    assert (target.ensure("there"), target.ensure("new"), target.ensure("new")) == (False, True, False)
    assert target.has("new")
    assert kind.existing == {"prefix/there", "prefix/new"}
    assert kind.requests == 2


def test_repositories_of_other_registries_are_created_by_a_push() -> None:
    """Nothing is requested for that."""
    target = targets.of_registry("host/prefix")
    assert (target.name, target.registry.host, target.registry.prefix) == ("host/prefix", "host", "prefix")
    assert (target.has("any"), target.ensure("any")) == (True, False)


@pytest.mark.parametrize(
    ("regions", "registries", "said"),
    [
        ([], [], "no target given"),
        ([], ["nowhere=host"], "'nowhere' is not a region"),
        (["us-east-1"], ["eu-west-1=host"], "--registry names eu-west-1, but --region does not"),
        (["us-east-9"], [], "no Deep Learning Containers are published in 'us-east-9'"),
        (["us-east-1"], ["one", "two"], "--registry gives one and two for all regions"),
        (["us-east-1"], ["us-east-1=one", "us-east-1=two"], "gives one and two for us-east-1"),
        ([], ["https://host"], "https://host: not the address of a registry\n  allowed: HOST"),
        ([], ["host/Team"], "host/Team: not the address of a registry"),
    ],
)
def test_options_that_name_no_target(regions: list[str], registries: list[str], said: str) -> None:
    """The message names the word."""
    with pytest.raises(UserError, match=said):
        targets.parse(regions, registries)


def test_each_registry_is_a_target() -> None:
    """The last one was the only one."""
    found = targets.parse([], ["one:5000", "http://two/team", "one:5000", "[::1]:5000"])
    assert [target.name for target in found] == ["one:5000", "two/team", "[::1]:5000"]


def test_check_for_tls_sends_no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Certificates are not verified there."""
    (tmp_path / "netrc").write_text("default login me password private\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    sent: list[str | None] = []

    def send(_: object, request: requests.PreparedRequest, **__: object) -> requests.Response:
        sent.append(request.headers.get("Authorization"))
        raise requests.ConnectionError

    monkeypatch.setattr(requests.Session, "send", send)
    engine = cast("Engine", SimpleNamespace(is_insecure=lambda _: True))
    assert targets.without_tls("host:5000", engine) == "http://host:5000"
    assert sent == [None]


def test_named_target_is_one_of_the_known() -> None:
    """By its name or its registry's address, else it is a registry of its own."""
    known = Target("us-east-1", Registry("host/prefix"))
    assert targets.named("us-east-1", [known]) is known
    assert targets.named("host/prefix", [known]) is known
    assert targets.named("other:5000", [known]).registry.address == "other:5000"


def test_kind_of_registry_is_found_by_its_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that is added to `of_address` is used for every option that names a registry."""
    own = Target("name", Registry("host"), Kind())
    monkeypatch.setattr(targets, "of_address", {"kind.example.org": own}.__getitem__)
    assert targets.parse([], ["kind.example.org"]) == [own]
    assert targets.named("kind.example.org") is own
