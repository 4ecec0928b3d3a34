"""A layer built with all of pip's configuration: the installer by pip, its packages by uv."""

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from hfdlc import project
from hfdlc.build import bake, buildkit, prepare
from hfdlc.build.session import Session
from hfdlc.engine.detect import Engine
from hfdlc.locks import lockfile
from private_index import USER, WORD, serving

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
GROUP = "arrays"  # of the default cell; its lock is replaced by one small package
TINY = "hfdlc_tiny-1.0-py3-none-any.whl"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the installer of the default cell has, one package of the layer, and a tiny one."""
    folder = tmp_path_factory.mktemp("wheels")
    cell = project.find(ROOT).default
    installer = ROOT / lockfile.installer_file(cell.python)
    (six,) = [each for each in lockfile.read(cell, ROOT)[GROUP] if each.name == "six"]
    (folder / "wanted.txt").write_text(f"{installer.read_text()}{six.text}\n")
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    words = ["--dest", str(folder), "--requirement", str(folder / "wanted.txt")]
    subprocess.run([*fetch, *words], check=True)
    with zipfile.ZipFile(folder / TINY, "w") as wheel:
        about = "hfdlc_tiny-1.0.dist-info"
        wheel.writestr("hfdlc_tiny.py", "")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: hfdlc-tiny\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return folder


def build(
    repository: project.Project, engine: Engine, folder: Path, lock: str, environ: Mapping[str, str]
) -> str:
    """Build the layer from another lock without any cache, and give the log of the build."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    cell = repository.default
    (folder / "tiny.lock").write_text(lock)
    session = Session(repository, {**own, "PIP_CONFIG_FILE": "/dev/null", **environ})
    session.__dict__["engine"] = engine
    with prepare.prepared(session, [cell]) as bases, prepare.with_packages(session, [cell], bases) as context:
        # The lock is in a context of its own, because the repository must not be changed.
        context = replace(context, contexts={**context.contexts, "lock": str(folder)})
        (layer,) = [each for each in bake.layers_of(cell, repository, context) if each.name == GROUP]
        file = bake.of_layers(
            [cell], [layer], repository.matrix, context, folder / "layout", folder / "layers"
        )
        text = (repository.root / cell.folder / "Dockerfile").read_text()
        locked = f"source={layer.lock},target=/requirements.lock"
        assert locked in text
        text = text.replace(locked, "from=lock,source=tiny.lock,target=/requirements.lock")
        for target in file["target"].values():
            del target["dockerfile"]
            target |= {"dockerfile-inline": text.replace("${", "$${"), "no-cache": True}
        done = buildkit.build(session, file, [cell], sys.stderr)
    assert list(folder.glob("layers/*/layer.tar.zst"))
    return done.log.read_text()


def test_layer_is_built_from_an_index_with_login_and_client_certificate(
    repository: project.Project, used_engine: Engine, wheels: Path, tmp_path: Path
) -> None:
    """Both pip and uv log in with .netrc, present the certificate, and accept the host's own certificate."""
    if not used_engine.private:
        pytest.skip("only builds of a private engine reach loopback")
    with serving(wheels, tmp_path) as index:
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login {USER} password {WORD}\n")
        environ = {
            "PIP_INDEX_URL": f"https://{index.host}/simple",
            "PIP_TRUSTED_HOST": index.host,
            "PIP_CLIENT_CERT": str(index.certificate),
            "NETRC": str(tmp_path / "netrc"),
        }
        digest = hashlib.sha256((wheels / TINY).read_bytes()).hexdigest()
        lock = f"hfdlc-tiny==1.0 \\\n    --hash=sha256:{digest}\n"
        log = build(repository, used_engine, tmp_path, lock, environ)
        assert index.programs == {"pip", "uv"}
    assert WORD not in log


def test_layer_is_built_from_a_folder_without_an_index(
    repository: project.Project, used_engine: Engine, wheels: Path, tmp_path: Path
) -> None:
    """The folder has what the installer needs, and of the layer the package `six`."""
    lock = (ROOT / lockfile.group_file(repository.default, GROUP)).read_text()
    (six,) = [entry for entry in lockfile.entries(lock) if entry.name == "six"]
    environ = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    build(repository, used_engine, tmp_path, f"{six.text}\n", environ)
