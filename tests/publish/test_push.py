"""Pushing from the cache: what the registry gets, and what it costs to do it again."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from proxy import Proxy

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
HFDLC = str(Path(sys.executable).with_name("hfdlc"))

OCI = "application/vnd.oci.image.manifest.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"


def push(host: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`hfdlc push` of the default cell."""
    argv = [HFDLC, "push", "--registry", host, "--json", *words]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=900)


def manifest(host: str, cell: str) -> requests.Response:
    """What the registry has under the cell's tag."""
    repository, tag = cell.split(":")
    accepted = {"Accept": f"{OCI}, {DOCKER}"}
    return requests.get(f"http://{host}/v2/{repository}/manifests/{tag}", headers=accepted, timeout=30)


def test_push_sends_zstd_layers_with_the_same_digest_each_time(
    built: str, new_registry: Callable[[], str]
) -> None:
    """One manifest of zstd layers; again, and to another registry, the digest is the same."""
    one, two = new_registry(), new_registry()
    ended = push(one)
    assert ended.returncode == 0, ended.stderr
    (digest,) = json.loads(ended.stdout).values()
    found = manifest(one, built)
    assert found.headers["Docker-Content-Digest"] == digest
    assert {layer["mediaType"] for layer in found.json()["layers"]} == {
        "application/vnd.oci.image.layer.v1.tar+zstd"
    }
    assert json.loads(push(one).stdout) == {built: digest}
    assert json.loads(push(two).stdout) == {built: digest}


@pytest.mark.releases
def test_push_with_docker_media_types(built: str, new_registry: Callable[[], str]) -> None:
    """Schema 2, gzip, and no index."""
    host = new_registry()
    ended = push(host, "--docker-media-types")
    assert ended.returncode == 0, ended.stderr
    found = manifest(host, built).json()
    assert found["mediaType"] == DOCKER
    assert {layer["mediaType"] for layer in found["layers"]} == {
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    }


def test_push_to_an_unreachable_registry(built: str) -> None:
    """In a few lines, with the command that tries it again."""
    ended = push("127.0.0.1:9")
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "connection refused" in ended.stderr.lower()
    assert f"hint: hfdlc push --registry 127.0.0.1:9 {built}" in ended.stderr


def test_push_continues_after_a_failing_registry(built: str, proxied: Proxy) -> None:
    """It answers 503 to what is uploaded, then nothing is wrong any more."""
    proxied.does.refuse = "/blobs/uploads"
    ended = push(proxied.host)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "503" in ended.stderr
    assert f"hint: hfdlc push --registry {proxied.host} {built}" in ended.stderr
    assert manifest(proxied.host, built).status_code == 404
    proxied.does.refuse = ""
    assert push(proxied.host).returncode == 0


def test_push_with_dropped_connections_sets_no_tag_of_half_an_image(built: str, proxied: Proxy) -> None:
    """It succeeds after retries, or it reports the failure and there is no tag."""
    proxied.does.cut_every = 3
    ended = push(proxied.host)
    assert proxied.does.failed
    proxied.does.cut_every = 0
    if ended.returncode:
        assert f"hint: hfdlc push --registry {proxied.host} {built}" in ended.stderr
        assert manifest(proxied.host, built).status_code == 404
        assert push(proxied.host).returncode == 0
    for layer in manifest(proxied.host, built).json()["layers"]:
        url = f"http://{proxied.host}/v2/{built.split(':')[0]}/blobs/{layer['digest']}"
        assert requests.head(url, timeout=30).headers["Content-Length"] == str(layer["size"])
