"""What a user would write instead: a Dockerfile a cell, one stage, pip, gzip; the same locks and bases."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rig import rig

from hfdlc.build import bake, buildkit, prepare
from hfdlc.build.bake import BuildContext
from hfdlc.build.session import Session
from hfdlc.dockerfile import layers, render
from hfdlc.engine import images
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.project import Project

COMMANDS = {"training": "train", "inference": "serve"}


@dataclass(frozen=True)
class Cost:
    """What building and pushing cells cost, with nothing in any cache."""

    seconds: float
    stored: int  # bytes in the registry
    size: int  # bytes of the images, uncompressed


def cost(project: Project, cells: Sequence[Cell], below: Path) -> Cost:
    """Build and push the cells by one bake, on a new engine and to an empty registry."""
    with (
        rig(below) as here,
        Session(project, here.environ) as session,
        prepare.prepared(session, cells) as bases,
        prepare.with_packages(session, cells, bases) as context,
    ):
        names = [f"{here.host}/{cell.id}" for cell in cells]
        targets = {
            bake.target_name(cell): _target(project, cell, context, name)
            for cell, name in zip(cells, names, strict=True)
        }
        file = {"group": {"default": {"targets": list(targets)}}, "target": targets}
        os.sync()
        began = time.monotonic()
        buildkit.build(session, file, cells, sys.stderr)
        seconds = time.monotonic() - began
        built = [images.layers(images.image_of(name, session.engine)) for name in names]
        return Cost(seconds, here.stored(), sum(layer.size for image in built for layer in image))


def _target(project: Project, cell: Cell, context: BuildContext, name: str) -> dict[str, object]:
    """All locks and the toolkit, installed by pip in one stage."""
    files = [lockfile.group_file(cell, group) for group in cell.groups]
    mounts = [f"--mount=type=bind,source={file},target=/locks/{n}.lock" for n, file in enumerate(files)]
    mounts += ["--mount=type=bind,from=wheels,target=/wheels"] if context.contexts else []
    secrets = [
        "--mount=type=secret,id=pip.conf,target=/etc/pip.conf",
        "--mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt",
    ]
    page = context.wheels if cell.id in context.has_local_wheels else cell.source.page
    links = f"--find-links {page} " if page else ""
    pip = "python3 -m pip install --no-cache-dir --break-system-packages --root-user-action ignore"
    locks = " ".join(f"-r /locks/{n}.lock" for n in range(len(files)))
    # Some packages of training images have no wheels: a user would start from the image with a compiler.
    base = "compiler_base" if layers.compiles(cell) else "installer_base"
    dockerfile = (
        f"ARG {base}\nFROM ${{{base}}}\n"
        f"RUN {' '.join(mounts + secrets)} {pip} --no-deps --require-hashes {links}{locks}\n"
        f"COPY toolkit /toolkit\nRUN {' '.join(secrets)} {pip} --no-deps /toolkit\n"
        f'ENTRYPOINT ["/usr/bin/env"]\nCMD {[COMMANDS[cell.type]]}\n'.replace("'", '"')
    )
    return {
        "context": ".",
        "dockerfile-inline": dockerfile.replace("${", "$${"),  # bake has variables of its own
        "args": {
            **bake.chosen(render.images(cell, project.matrix), context.images, cell),
            **context.arguments,
        },
        "contexts": dict(context.contexts),
        "secret": [f"id={key},src={file}" for key, file in context.secrets.items()],
        "tags": [name],
        "output": ["type=image,push=true"],
    }
