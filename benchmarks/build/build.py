"""Building and pushing a cell, against what a user would write: one stage, pip, gzip.

Both are built from the same locks and bases, over the same index, by bake on the same new private engine, and
pushed to the same registry on loopback. Arguments are cells; without one, the default cell.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).parents[1]))
from results import Row, report

from hfdlc import apt, lock, making, plan, project, render
from hfdlc import build as building
from hfdlc import engine as engines
from hfdlc import facts as reading
from hfdlc.cells import Cell
from hfdlc.plan import Machine
from hfdlc.project import Project
from hfdlc.state import State

ROOT = Path(__file__).parents[2]
HFDLC = str(Path(sys.executable).with_name("hfdlc"))
ENOUGH = 12e9  # bytes of disk that a CPU cell, twice, may need
NOT_RUN = {
    "four CPU cells, cold, pushed": "0.15 of the time, 0.5 of the bytes",
    "transformers bumped by a patch release, pushed": "0.06 of the time, 30 MB",
    "a PyTorch GPU cell, cold, pushed": "0.35 of the time",
    "base image changed, all CPU cells, pushed": "0.05 of the time",
}


def main(patterns: list[str]) -> int:
    """Run it on an engine and with a registry of its own, which are gone afterwards."""
    found = project.find(ROOT)
    cells = [cell for cell in found.cells if cell.id in patterns] or [found.default]
    if shutil.disk_usage(tempfile.gettempdir()).free < ENOUGH:
        print(f"not run: less than {ENOUGH / 1e9:.0f} GB are free", file=sys.stderr)
        return 1
    folder = Path(tempfile.mkdtemp(prefix="hb-"))
    state = State(folder)
    share_bases(state)
    # No engine answers there: so a private one is started.
    environ = {**os.environ, "HFDLC_STATE": str(folder), "DOCKER_HOST": f"unix://{folder}/none.sock"}
    try:
        with registry(state) as host:
            rows = [row for cell in cells for row in measure(found, cell, environ, host)]
    finally:
        engines.stop(state)
        shutil.rmtree(folder)
    for work, bound in NOT_RUN.items():
        print(f"{work:58} not run: this benchmark does not do it yet (bound: {bound})")
    return report("build", rows)


def share_bases(state: State) -> None:
    """Bases that this machine has made are not made again: they are no part of what is measured."""
    for file in (State.of(os.environ).root / "bases").glob("*.tar"):
        (state.folder("bases") / file.name).symlink_to(file)


def measure(found: Project, cell: Cell, environ: Mapping[str, str], host: str) -> Iterator[Row]:
    """One cell, cold and again; the bases are there before, for both."""
    with making.prepared(found, [cell], environ) as (used, state, machine):
        bake = plain(found, cell, machine, f"{host}/plain/{cell.id}")
        began = time.monotonic()
        building.build(bake, [cell], used, ROOT, state, sys.stderr)
        theirs = time.monotonic() - began
    ours = hfdlc("push", "--registry", host, cell.id, environ=environ)
    yield Row(f"{cell.id.partition('-transformers')[0]}, cold, pushed", ours, theirs, "s", 0.20)
    sent = [pushed(host, name, cell.tag) for name in (cell.repository, f"plain/{cell.repository}")]
    yield Row("  the bytes of it in the registry", sent[0] / 1e9, sent[1] / 1e9, "GB", 0.5)
    hfdlc("build", cell.id, environ=environ)
    yield Row("nothing changed", hfdlc("build", cell.id, environ=environ), None, "s", 1.0)
    sizes = [
        sum(layer.size for layer in reading.layers(reading.image_of(name, used))) / 1e9
        for name in (cell.id, f"{host}/plain/{cell.id}")
    ]
    yield Row("size of the image, uncompressed", sizes[0], sizes[1], "GB", 0.65)


def plain(found: Project, cell: Cell, machine: Machine, name: str) -> dict[str, object]:
    """What a user would write: all locks and the toolkit, installed by pip in one stage."""
    files = [lock.group_file(cell, group) for group in cell.groups]
    mounts = [f"--mount=type=bind,source={file},target=/locks/{n}.lock" for n, file in enumerate(files)]
    mounts += ["--mount=type=bind,from=wheels,target=/wheels"] if machine.contexts else []
    mounts += [
        "--mount=type=secret,id=pip.conf,target=/etc/pip.conf",
        "--mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt",
    ]
    page = "/wheels" if cell.id in machine.brought else cell.source.page
    links = f"--find-links {page} " if page else ""
    pip = "python3 -m pip install --no-cache-dir --break-system-packages --root-user-action ignore"
    locks = " ".join(f"-r /locks/{n}.lock" for n in range(len(files)))
    dockerfile = (
        "ARG installer_base\nFROM ${installer_base}\n"
        f"RUN {' '.join(mounts)} {pip} --no-deps --require-hashes {links}{locks}\n"
        f"COPY toolkit /toolkit\nRUN {' '.join(mounts[-2:])} {pip} --no-deps /toolkit\n"
        'ENTRYPOINT ["/usr/bin/env"]\nCMD ["serve"]\n'
    )
    target = {
        "context": ".",
        "dockerfile-inline": dockerfile.replace("${", "$${"),
        "args": {**plan.chosen(render.images(cell, found.matrix), machine.images, cell), **machine.proxies},
        "contexts": dict(machine.contexts),
        "secret": [f"id={key},src={file}" for key, file in machine.secrets.items()],
        "tags": [name],
        "output": ["type=image,push=true"],
    }
    own = plan.target_name(cell)
    return {"group": {"default": {"targets": [own]}}, "target": {own: target}}


def hfdlc(*words: str, environ: Mapping[str, str]) -> float:
    """The seconds that a command takes."""
    began = time.monotonic()
    subprocess.run([HFDLC, *words], cwd=ROOT, env=dict(environ), check=True)
    return time.monotonic() - began


def pushed(host: str, repository: str, tag: str) -> int:
    """The bytes of an image's layers in the registry."""
    kinds = (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
    accepted = {"Accept": ", ".join(kinds)}
    answer = requests.get(f"http://{host}/v2/{repository}/manifests/{tag}", headers=accepted, timeout=30)
    return sum(int(layer["size"]) for layer in answer.json()["layers"])


@contextmanager
def registry(state: State) -> Iterator[str]:
    """Debian's docker-registry on loopback, empty; its host."""
    folder, wanted = state.root / "tools" / "docker-registry", {"trixie": ("docker-registry",)}
    program = apt.unpack(wanted, folder, apt.release(), state) / "usr/bin/docker-registry"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(state.folder("registry"))}},
        "http": {"addr": host},
    }
    file = state.root / "registry.yml"
    file.write_text(json.dumps(settings))
    process = subprocess.Popen([str(program), "serve", str(file)], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with suppress(requests.ConnectionError):
                requests.get(f"http://{host}/v2/", timeout=5)
                break
            time.sleep(0.1)
        yield host
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
