"""The registry cache of builds: whether the engine can use it, and the login of buildx."""

import base64
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hfdlc.build import cache

ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"


def session(registry: str, *, containerd: bool = True, **environ: str) -> Any:
    builder = SimpleNamespace(exports_images=containerd)
    return SimpleNamespace(builder=builder, environ={"HFDLC_CACHE": registry, **environ})


def test_classic_store_builds_without_the_cache(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One line says so: the store refuses to export a cache, which would fail the build."""
    assert cache.registry(session("registry.example/cache")) == "registry.example/cache"
    assert cache.registry(session("")) is None
    assert capsys.readouterr().err == ""
    classic = session(f"{ECR}/cache", containerd=False)
    assert cache.registry(classic) is None
    assert capsys.readouterr().err.splitlines() == [
        "HFDLC_CACHE is not used: Docker's classic image store cannot export caches"
    ]
    assert cache.environment(classic, tmp_path) == {}


def test_buildx_is_signed_in_to_ecr_beside_other_registries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy of Docker's configuration, which keeps contexts and plugins."""
    home, folder = tmp_path / "home", tmp_path / "folder"
    (home / "cli-plugins").mkdir(parents=True)
    folder.mkdir()
    (home / "config.json").write_text(json.dumps({"auths": {"other": {"auth": "b3RoZXI="}}}))
    token = base64.b64encode(b"AWS:word").decode()

    class Client:
        """What boto3 gives for a region."""

        def get_authorization_token(self) -> dict[str, Any]:
            return {"authorizationData": [{"authorizationToken": token}]}

    import boto3

    asked = []

    def client(name: str, region_name: str) -> Client:
        asked.append((name, region_name))
        return Client()

    monkeypatch.setattr(boto3, "client", client)
    found = cache.environment(session(f"{ECR}/cache", DOCKER_CONFIG=str(home)), folder)
    config = Path(found["DOCKER_CONFIG"])
    assert asked == [("ecr", "eu-west-1")]
    assert json.loads((config / "config.json").read_text())["auths"] == {
        "other": {"auth": "b3RoZXI="},
        ECR: {"auth": token},
    }
    assert (config / "config.json").stat().st_mode & 0o777 == 0o600
    assert (config / "cli-plugins").resolve() == home / "cli-plugins"
    assert cache.environment(session("registry.example/cache"), folder) == {}


def test_build_continues_without_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.environment(session(f"{ECR}/cache"), tmp_path) == {}
    assert f"HFDLC_CACHE: no login for {ECR}: Unable to locate credentials" in capsys.readouterr().err
