"""A plain `docker build` of a cell's Dockerfile."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from docker.errors import ImageNotFound

from hfdlc.build import bake, buildkit, prepare
from hfdlc.build.session import Session
from hfdlc.engine import containers
from hfdlc.engine.detect import Engine
from hfdlc.project import Project

NAME = f"whole-of-a-test:{os.getpid()}"
FILES = "cd / && find opt -type f -exec sha256sum {} + | sort -k 2; find opt -printf '%p %M %T@ %l\\n' | sort"

pytestmark = [pytest.mark.engine, pytest.mark.releases]  # it installs all packages again


@pytest.fixture
def name(used_engine: Engine) -> Iterator[str]:
    """An image's name, while a test lasts."""
    yield NAME
    with suppress(ImageNotFound):
        used_engine.client.images.remove(NAME, force=True)


def listing(image: str, used: Engine) -> str:
    """Every file that the cell adds: content, mode, time, where a link leads."""
    with containers.idle(image, used) as container:
        status, output = container.exec_run(["sh", "-c", FILES])
    assert status == 0
    assert isinstance(output, bytes)
    return output.decode()


def test_docker_build_makes_the_same_files(
    built: str, name: str, repository: Project, session: Session, used_engine: Engine
) -> None:
    """As images that are put together from packed layers have."""
    cell = repository.default
    with (
        prepare.prepared(session, [cell]) as bases,
        prepare.with_packages(session, [cell], bases) as context,
    ):
        file = bake.of_images([cell], repository.matrix, replace(context, output=bake.LOADED))
        file["target"][bake.target_name(cell)]["tags"] = [name]
        buildkit.build(session, file, [cell], sys.stderr)
    assert listing(name, used_engine) == listing(built, used_engine)
