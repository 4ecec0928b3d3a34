"""Base images: the public one where a registry is in reach, else its like from packages."""

import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import docker
from docker.errors import DockerException, ImageNotFound

from hfdlc import apt, private_engine
from hfdlc import engine as engines
from hfdlc.console import say
from hfdlc.engine import Engine
from hfdlc.errors import CommandFailed, HfdlcError
from hfdlc.matrix import Bootstrap
from hfdlc.process import run
from hfdlc.state import State, write_whole

ANSWER_KEEPS = 600.0  # seconds that a registry's silence is remembered
LAYOUT = "1"  # raised when what a bootstrapped base looks like is changed here
EPOCH = "1577836800"
# Nothing of the building machine stays: its mirror, its name, what apt and the linker remember.
CLEAN = (
    'printf "# This base has no package source; add one to install packages.\\n" > "$1/etc/apt/sources.list"',
    'rm -rf "$1"/etc/apt/sources.list.d/* "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*',
    'rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1"/usr/share/info/*',
    'rm -f "$1"/var/log/*.log "$1"/var/log/apt/* "$1"/var/cache/ldconfig/aux-cache "$1"/etc/hostname',
    ': > "$1/etc/resolv.conf"; : > "$1/etc/machine-id"; rm -f "$1/var/lib/dbus/machine-id"',
)


def digest(bootstrap: Bootstrap) -> str:
    """Names what the same packages of the same suite give."""
    return hashlib.sha256(json.dumps([LAYOUT, bootstrap.model_dump()]).encode()).hexdigest()[:12]


def ensure(
    image: str, bootstrap: Bootstrap | None, engine: Engine, state: State, environ: Mapping[str, str]
) -> str:
    """What FROM is given: the public image by digest where its registry answers, else a bootstrapped one.

    Raises HfdlcError where neither can be had.
    """
    client = engines.client(engine)
    if pinned := _published(image, client, state):
        return f"{image}@{pinned}"
    if not bootstrap:
        raise HfdlcError(
            f"the base {image} is out of reach",
            then="run this where its registry answers: `docker pull` shows why",
        )
    tag = f"hfdlc.local/base:{bootstrap.suite}-{digest(bootstrap)}"
    try:
        client.images.get(tag)
    except ImageNotFound:
        with state.lock("bases"):
            archive = _archive(image, tag, bootstrap, state, environ)
        with archive.open("rb") as file:
            client.images.load(file)
    return tag


def _published(image: str, client: docker.DockerClient, state: State) -> str | None:
    """The digest under which a registry has the image; its silence is remembered for some minutes."""
    memory = state.folder("bases") / "registries.json"
    silent = json.loads(memory.read_text()) if memory.is_file() else {}
    if time.time() - silent.get(image, 0) < ANSWER_KEEPS:
        return None
    try:
        return str(client.images.get_registry_data(image).id)
    except (DockerException, OSError):
        write_whole(memory, json.dumps(silent | {image: time.time()}))
        return None


def _archive(image: str, tag: str, bootstrap: Bootstrap, state: State, environ: Mapping[str, str]) -> Path:
    """An image archive with the bootstrapped system as its one layer, made once."""
    file = state.folder("bases") / f"{bootstrap.suite}-{digest(bootstrap)}.tar"
    if file.is_file():
        return file
    began = time.monotonic()
    say(f"no registry has {image} in reach: making its like from {bootstrap.suite} with mmdebstrap")
    root = file.with_suffix(".root.tar")
    try:
        _debootstrap(bootstrap, root, state, environ)
        _pack(root, tag, labels(image, bootstrap), file)
    finally:
        root.unlink(missing_ok=True)
    say(f"made {tag} in {time.monotonic() - began:.0f} s")
    return file


def labels(image: str, bootstrap: Bootstrap) -> dict[str, str]:
    """What a bootstrapped base says of itself."""
    return {
        "org.opencontainers.image.base.name": image,
        "io.hfdlc.base.source": "mmdebstrap",
        "io.hfdlc.base.suite": bootstrap.suite,
        "io.hfdlc.base.packages": " ".join(bootstrap.packages),
    }


def _debootstrap(bootstrap: Bootstrap, target: Path, state: State, environ: Mapping[str, str]) -> None:
    folders = private_engine.unpack(state)
    try:
        run(["perl", "-MGetopt::Long", "-MDigest::SHA", "-MEnglish", "-e", "1"])
    except HfdlcError:
        apt.install(["perl"])
    machine = apt.release()
    source = f"deb [signed-by={apt.KEYRING}] {machine.mirror} {bootstrap.suite} main"
    hooks = [f"--customize-hook={line}" for line in CLEAN]
    argv = [str(folders.base / "root" / "usr" / "bin" / "mmdebstrap"), "--quiet", "--variant=minbase"]
    argv += [f"--include={','.join(bootstrap.packages)}", *hooks, "--format=tar"]
    path = f"{folders.programs}:{environ.get('PATH', os.defpath)}"
    try:
        run([*argv, bootstrap.suite, str(target), source], env={"SOURCE_DATE_EPOCH": EPOCH, "PATH": path})
    except CommandFailed as error:
        raise HfdlcError(
            f"a base of {bootstrap.suite} could not be made\n{error}",
            then="see that `apt-get update` works and `df -h` shows room, then run this again",
        ) from error


def _pack(root: Path, tag: str, labels: dict[str, str], archive: Path) -> None:
    """One layer and its configuration as an archive that every engine loads; the same bytes every time."""
    with root.open("rb") as file:
        layer = hashlib.file_digest(file, "sha256").hexdigest()
    configuration = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2020-01-01T00:00:00Z",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
        "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "mmdebstrap"}],
    }
    content = json.dumps(configuration, sort_keys=True).encode()
    name = f"{hashlib.sha256(content).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [tag], "Layers": [f"{layer}/layer.tar"]}]).encode()
    partial = archive.with_suffix(".part")
    with tarfile.open(partial, "w") as tar:
        for member, data in ((name, content), ("manifest.json", manifest)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo(f"{layer}/layer.tar")
        info.size = root.stat().st_size
        with root.open("rb") as file:
            tar.addfile(info, file)
    partial.rename(archive)
