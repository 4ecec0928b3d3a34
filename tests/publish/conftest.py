"""Real parts on loopback: Debian's registry, AWS's API by moto, cosign's keys, and small images."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from hfdlc.engine.detect import Engine
from hfdlc.publish import signing
from hfdlc.state import State
from parts import (
    PASSWORD,
    Ended,
    Hfdlc,
    Keys,
    Small,
    aws_api,
    aws_environ,
    debian_cosign,
    docker_registry,
    key_pair,
    serving,
    write_project,
)
from proxy import Proxy

HFDLC = str(Path(sys.executable).with_name("hfdlc"))


@pytest.fixture(scope="session")
def registry_program(state: State) -> str:
    """Debian's docker-registry, unpacked below the state folder."""
    return docker_registry(state)


@pytest.fixture
def new_registry(registry_program: str, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Start a registry that is empty, and give its host."""
    with ExitStack() as started:
        number = itertools.count()

        def start() -> str:
            return started.enter_context(serving(registry_program, tmp_path / f"registry-{next(number)}"))

        yield start


@pytest.fixture
def registry(new_registry: Callable[[], str]) -> str:
    """One empty registry's host."""
    return new_registry()


@pytest.fixture
def proxied(registry: str) -> Iterator[Proxy]:
    """A bad network before the registry."""
    proxy = Proxy(registry)
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def aws_server() -> Iterator[str]:
    """AWS's API, simulated by moto: ECR, STS and IAM."""
    with aws_api() as url:
        yield url


@pytest.fixture
def aws(aws_server: str) -> Iterator[dict[str, str]]:
    """The environment in which boto3 speaks to an account that has nothing yet."""
    requests.post(f"{aws_server}/moto-api/reset", timeout=30)
    yield aws_environ(aws_server)
    requests.post(f"{aws_server}/moto-api/reset-auth", data=b"1000000000", timeout=30)


@pytest.fixture(scope="session")
def cosign(state: State) -> str:
    """The program."""
    return signing.find_program(state, os.environ)


@pytest.fixture(scope="session")
def cosigns(state: State) -> Callable[[str], str]:
    """The program by version; skips the test if the distribution's mirror does not have it."""

    def find(version: str) -> str:
        return debian_cosign(version, state)

    return find


@pytest.fixture(scope="session")
def keys(cosign: str, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """A new pair."""
    return key_pair(cosign, tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def other_keys(cosign: str, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Someone else's."""
    return key_pair(cosign, tmp_path_factory.mktemp("other-keys"))


@pytest.fixture
def small(tmp_path: Path, used_engine: Engine, state: State) -> Iterator[Small]:
    """A project with two repositories, locked."""
    made = Small(write_project(tmp_path / "project"), used_engine, state)
    made.clean()
    yield made
    made.clean()


@pytest.fixture
def hfdlc(small: Small, keys: Keys) -> Hfdlc:
    """Run `hfdlc WORDS` in the small project, with a key, and give what it said."""

    def run(*words: str, environ: Mapping[str, str] | None = None) -> Ended:
        own = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        own |= {"COSIGN_KEY": keys.private, "COSIGN_PUBLIC_KEY": keys.public, "COSIGN_PASSWORD": PASSWORD}
        return subprocess.run(
            [HFDLC, *words],
            cwd=small.project.root,
            env={**own, "AWS_EC2_METADATA_DISABLED": "true", **(environ or {})},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
