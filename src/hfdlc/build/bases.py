"""Base images: the public one where its registry is reachable, else an equivalent from Debian's packages."""

import hashlib
import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from textwrap import indent
from typing import cast

import docker
from docker.errors import APIError, DockerException, ImageNotFound

from hfdlc.build.session import Session
from hfdlc.dockerfile import render
from hfdlc.engine import debian, private
from hfdlc.engine.detect import Engine
from hfdlc.errors import CommandFailed, HfdlcError
from hfdlc.matrix.schema import Bootstrap
from hfdlc.process import run, say
from hfdlc.state import State, write_whole

ANSWER_KEEPS = 600.0  # seconds that the answer of a registry is cached, also that there was none
PATIENCE = 5  # seconds until a registry counts as unreachable
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # as Docker names them
LOCAL = "hfdlc.local/"  # how the names of images begin that no registry has
NAME = f"{LOCAL}base"  # of bootstrapped bases in an engine
LAYOUT = "4"  # raised when bootstrapped bases are made in another way
# Removes what depends on the building machine (mirror, host name, caches), but not licences.
CLEAN = (
    'printf "# This base has no package source; add one to install packages.\\n" > "$1/etc/apt/sources.list"',
    'rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"',
    'rm -rf "$1"/etc/apt/sources.list.d/* "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*',
    'find "$1/usr/share/doc" -type f ! -name copyright -delete',
    'find "$1/usr/share/doc" -mindepth 1 -type d -empty -delete',
    'rm -rf "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1"/usr/share/info/*',
    'rm -f "$1"/var/log/*.log "$1"/var/log/apt/* "$1"/var/cache/ldconfig/aux-cache "$1"/etc/hostname',
    'rm -f "$1"/var/cache/debconf/*-old "$1"/var/lib/dpkg/*-old',
    ': > "$1/etc/resolv.conf"; : > "$1/etc/machine-id"; rm -f "$1/var/lib/dbus/machine-id"',
)


def digest(bootstrap: Bootstrap) -> str:
    """A short digest of a suite and its packages."""
    return hashlib.sha256(json.dumps([LAYOUT, bootstrap.model_dump()]).encode()).hexdigest()[:12]


def tag(bootstrap: Bootstrap) -> str:
    """The name of a bootstrapped base in an engine."""
    return f"{NAME}:{bootstrap.suite}-{digest(bootstrap)}"


def archive(bootstrap: Bootstrap, state: State) -> Path:
    """The file of a bootstrapped base, from which engines load it."""
    return state.root / "bases" / f"{bootstrap.suite}-{digest(bootstrap)}.tar"


def ensure(image: str, bootstrap: Bootstrap | None, session: Session) -> str:
    """The image for FROM: the public one by digest where its registry answers, else a bootstrapped one.

    Raises HfdlcError if the registry is unreachable and there is no bootstrap.
    """
    client, state = session.engine.client, session.state
    if pinned := published(image, session.engine, state) or _held(image, client):
        return f"{image}@{pinned}"
    if not bootstrap:
        raise HfdlcError(
            f"the base image {image} is unreachable, and the matrix has no bootstrap for it",
            hint="run this where its registry answers (`docker pull` shows why it does not)",
        )
    name = tag(bootstrap)
    with state.lock("bases"):
        if not _held(name, client):
            _load(make(image, name, bootstrap, state, session.environ), client)
    return name


def in_reach(image: str, engine: Engine, state: State) -> bool:
    """Whether a registry, or the engine itself, has the image."""
    return bool(published(image, engine, state) or _held(image, engine.client))


def known(image: str, bootstrap: Bootstrap | None, engine: Engine) -> str | None:
    """The identity of an image that the engine has, without asking a registry; None where it has none."""
    if digest := _held(image, engine.client):
        return f"{image}@{digest}"
    if bootstrap and (digest := _held(tag(bootstrap), engine.client)):
        return f"{tag(bootstrap)}@{digest}"
    return None


def identity(image: str, engine: Engine) -> str:
    """The result of `ensure` with its digest: a bootstrapped base has no versions in its name."""
    if "@" in image:
        return image
    return f"{image}@{_held(image, engine.client)}"


def published(image: str, engine: Engine, state: State, now: Callable[[], float] = time.time) -> str | None:
    """The digest of an image in its registry; None where there is none, or the registry is unreachable.

    The answer is cached for some minutes; that a registry is unreachable, for all its images.
    """
    memory = state.folder("bases") / "answers.json"
    answers = json.loads(memory.read_text()) if memory.is_file() else {}
    for name in (image, _registry(image)):
        if name in answers and 0 <= now() - answers[name]["at"] < ANSWER_KEEPS:
            return cast("str | None", answers[name]["digest"])
    name, found = _requested(image, engine)
    write_whole(memory, json.dumps(answers | {name: {"at": now(), "digest": found}}))
    return found


def _registry(image: str) -> str:
    return image.partition("/")[0]


def _requested(image: str, engine: Engine) -> tuple[str, str | None]:
    """The name that an answer is about (the image, or its whole registry), and the digest if there is one."""
    try:
        with closing(engine.address.client(PATIENCE)) as client:
            return image, str(client.images.get_registry_data(image).id)
    except APIError as error:
        # The engine answers 500 for an unreachable registry, and forwards a client error of the registry.
        return image if error.is_client_error() else _registry(image), None
    except (DockerException, OSError) as error:
        if "Credentials store error" in str(error):
            raise HfdlcError(
                f"the credential helper of Docker's configuration failed: {error}",
                location=image,
                hint="install docker-credential-NAME for the `credsStore` or `credHelpers` of config.json, "
                "or remove that entry",
            ) from error
        return _registry(image), None


def _held(image: str, client: docker.DockerClient) -> str | None:
    """The digest of an image in the engine.

    For an image that was made on this machine it is that of its layers. Its id differs between Docker's image
    stores, and the inputs of all images that start from it would differ too.
    """
    try:
        attributes = client.images.get(image).attrs
    except ImageNotFound:
        return None
    if image.startswith(LOCAL):
        layers = "\n".join(attributes["RootFS"]["Layers"])
        return f"sha256:{hashlib.sha256(layers.encode()).hexdigest()}"
    digests = [str(name).partition("@")[2] for name in attributes.get("RepoDigests") or []]
    return digests[0] if digests else str(attributes["Id"])


def _load(archive: Path, client: docker.DockerClient) -> None:
    try:
        with archive.open("rb") as file:
            client.images.load(file)
    except (DockerException, OSError) as error:
        raise HfdlcError(
            f"the engine could not load this file: {error}",
            location=str(archive),
            hint="check the free disk space (`df -h`); remove the file if it is damaged, then run this again",
        ) from error


def make(image: str, tag: str, bootstrap: Bootstrap, state: State, environ: Mapping[str, str]) -> Path:
    """An image archive with the bootstrapped system as its one layer, made once."""
    file = archive(bootstrap, state)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_file():
        return file
    began = time.monotonic()
    say(f"{image} is unreachable: making an equivalent from {bootstrap.suite} with mmdebstrap")
    root, partial = file.with_suffix(".root.tar"), file.with_suffix(".part")
    try:
        _bootstrap(bootstrap, root, state, environ)
        _pack(root, tag, labels(image, bootstrap), partial)
        partial.rename(file)
    except OSError as error:
        raise HfdlcError(
            f"could not be written: {error}", location=str(file), hint=debian.advice(error)
        ) from error
    finally:
        root.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
    say(f"made {tag} in {time.monotonic() - began:.0f} s")
    return file


def labels(image: str, bootstrap: Bootstrap) -> dict[str, str]:
    """The labels of a bootstrapped base."""
    return {
        "org.opencontainers.image.base.name": image,
        "io.hfdlc.base.source": "mmdebstrap",
        "io.hfdlc.base.suite": bootstrap.suite,
        "io.hfdlc.base.packages": " ".join(bootstrap.packages),
    }


def _bootstrap(bootstrap: Bootstrap, target: Path, state: State, environ: Mapping[str, str]) -> None:
    """Write a system's files as a tar; the same packages give the same bytes.

    Raises HfdlcError if the mirror is unreachable or the disk is full.
    """
    machine = debian.release()
    unpacked = debian.unpack({private.SUITE: ("mmdebstrap",)}, state.root / "mmdebstrap", state, machine)
    program = unpacked / "usr/bin/mmdebstrap"
    if not _has_perl():
        debian.install(["perl"])
    argv = [str(program), "--quiet", "--variant=minbase", "--format=tar"]
    argv += [f"--include={package}" for package in bootstrap.packages]
    # Merges /usr before anything is unpacked: Debian 12 would install usrmerge for it, and perl with that.
    argv += [f"--hook-dir={program.parents[1] / 'share/mmdebstrap/hooks/maybe-merged-usr'}"]
    argv += [f"--aptopt={line}" for line in debian.network_settings()]
    argv += [f"--customize-hook={line}" for line in CLEAN]
    # It would create again what CLEAN removes, owned by the user that apt switches to.
    argv += ["--skip=cleanup/apt"]
    argv += [bootstrap.suite, str(target), *machine.sources(bootstrap.suite)]
    # Its temporary files are as large as the base.
    own = {
        **environ,
        "SOURCE_DATE_EPOCH": str(render.EPOCH),
        "TMPDIR": str(state.folder("tmp")),
        "PATH": _path(environ),
    }
    try:
        run(argv, env=own)
    except CommandFailed as error:
        raise HfdlcError(
            f"a base of {bootstrap.suite} could not be made\n{indent(error.output.strip()[-1500:], '    ')}",
            hint=debian.advice(error),
        ) from error


def _has_perl() -> bool:
    """Whether perl has the modules that mmdebstrap uses; a minimal Debian lacks some."""
    try:
        run(["perl", "-MGetopt::Long", "-MDigest::SHA", "-MEnglish", "-e", "1"])
    except HfdlcError:
        return False
    return True


def _path(environ: Mapping[str, str]) -> str:
    """The search path with the system's tools for root, which mmdebstrap runs."""
    return f"{environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def _pack(root: Path, tag: str, labels: Mapping[str, str], archive: Path) -> None:
    """One layer and its configuration as an archive that every engine loads; the same bytes every time."""
    with root.open("rb") as file:
        layer = hashlib.file_digest(file, "sha256").hexdigest()
    configuration = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": "2020-01-01T00:00:00Z",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Labels": dict(labels),
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
        "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "mmdebstrap"}],
    }
    content = json.dumps(configuration, sort_keys=True).encode()
    name = f"{hashlib.sha256(content).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [tag], "Layers": [f"{layer}/layer.tar"]}]).encode()
    with tarfile.open(archive, "w") as tar:
        for member, data in ((name, content), ("manifest.json", manifest)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo(f"{layer}/layer.tar")
        info.size = root.stat().st_size
        with root.open("rb") as file:
            tar.addfile(info, file)
