"""Real parts on loopback: Debian's registry, AWS's API by moto, cosign's keys, and small images."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from hfdlc import apt, lock, project
from hfdlc.engine import Engine
from hfdlc.matrix import GROUPS
from hfdlc.publish import sign
from hfdlc.state import State
from matrices import write
from parts import Ended, Hfdlc, Keys, Small
from proxy import Proxy

HFDLC = str(Path(sys.executable).with_name("hfdlc"))
PASSWORD = "of a test"


def free_port() -> int:
    """A port of loopback that nothing has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        with suppress(requests.ConnectionError):
            requests.get(url, timeout=5)
            return
        assert process.poll() is None, f"the server of {url} ended"
        time.sleep(0.1)
    pytest.fail(f"{url} does not answer")


@pytest.fixture(scope="session")
def registry_program(state: State) -> str:
    """Debian's docker-registry, unpacked below the state folder."""
    folder, wanted = state.root / "tools" / "docker-registry", {"trixie": ("docker-registry",)}
    root = apt.unpacked(wanted, folder) or apt.unpack(wanted, folder, apt.release(), state)
    return str(root / "usr/bin/docker-registry")


@pytest.fixture
def new_registry(registry_program: str, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Start a registry that is empty, and give its host."""
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> str:
        host = f"127.0.0.1:{free_port()}"
        folder = tmp_path / f"registry-{len(processes)}"
        folder.mkdir()
        settings = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder)}, "delete": {"enabled": True}},
            "http": {"addr": host},
        }
        (folder / "config.yml").write_text(json.dumps(settings))
        with (folder / "log").open("w") as log:
            command = [registry_program, "serve", str(folder / "config.yml")]
            process = subprocess.Popen(command, stdout=log, stderr=log)
        processes.append(process)
        _wait(f"http://{host}/v2/", process)
        return host

    yield start
    for process in processes:
        process.terminate()
        process.wait()


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
    """AWS's API as moto plays it: ECR, STS and IAM."""
    port = free_port()
    program = str(Path(sys.executable).with_name("moto_server"))
    process = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    _wait(f"{url}/moto-api/", process)
    yield url
    process.terminate()
    process.wait()


@pytest.fixture
def aws(aws_server: str) -> Iterator[dict[str, str]]:
    """The environment in which boto3 speaks to an account that has nothing yet."""
    requests.post(f"{aws_server}/moto-api/reset", timeout=30)
    yield {
        "AWS_ENDPOINT_URL": aws_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    requests.post(f"{aws_server}/moto-api/reset-auth", data=b"1000000000", timeout=30)


@pytest.fixture(scope="session")
def cosign(state: State) -> str:
    """The program."""
    return sign.program(state)


@pytest.fixture(scope="session")
def keys(cosign: str, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """A new pair."""
    return _pair(cosign, tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def other_keys(cosign: str, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Someone else's."""
    return _pair(cosign, tmp_path_factory.mktemp("other-keys"))


def _pair(cosign: str, folder: Path) -> Keys:
    environ = {**os.environ, "COSIGN_PASSWORD": PASSWORD}
    subprocess.run([cosign, "generate-key-pair"], cwd=folder, env=environ, check=True, capture_output=True)
    return Keys(str(folder / "cosign.key"), str(folder / "cosign.pub"))


@pytest.fixture
def small(tmp_path: Path, used_engine: Engine, state: State) -> Iterator[Small]:
    """A project with two repositories, locked."""
    root = tmp_path / "project"
    (root / "toolkit").mkdir(parents=True)
    (root / "toolkit" / "pyproject.toml").write_text('[project]\nversion = "0.1.0"\n')
    write(
        root,
        ("transformers5.23.0", "transformers5.99.0"),
        ("transformers: 5.23.0", "transformers: 5.99.0"),
        ("transformers: 4.57.6", "transformers: 4.99.0"),
        ("inference: [cpu, cu130]", "inference: [cpu, cu130]\n      training: [cpu]"),
        ("types:\n", "types:\n  training:\n    packages: [datasets]\n    size: {cpu: 1.9 GB, gpu: 9 GB}\n"),
    )
    found = project.find(root)
    for cell in found.cells:
        asked = lock.request(cell, found.matrix)
        for group in GROUPS:
            entries = (
                lock.entries("torch==2.13.0+cpu \\\n    --hash=sha256:00") if group == "framework" else ()
            )
            file = root / lock.group_file(cell, group)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(lock.text(group, asked, entries))
    made = Small(found, used_engine, state)
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
