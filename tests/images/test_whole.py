"""A plain `docker build` of a cell's Dockerfile, and one whose last stage does more than lay layers."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from docker.errors import ImageNotFound

from hfdlc.build import assemble, buildkit, session
from hfdlc.build import bake as plan
from hfdlc.dockerfile import render
from hfdlc.engine import containers, detect
from hfdlc.engine.detect import Engine
from hfdlc.project import Project

NAME = f"whole-of-a-test:{os.getpid()}"
FILES = "cd / && find opt -type f -exec sha256sum {} + | sort -k 2; find opt -printf '%p %M %T@ %l\\n' | sort"

pytestmark = pytest.mark.rows  # each installs all packages again


@pytest.fixture
def name(used_engine: Engine) -> Iterator[str]:
    """An image's name, while a test lasts."""
    yield NAME
    with suppress(ImageNotFound):
        detect.client(used_engine).images.remove(NAME, force=True)


def listing(image: str, used: Engine) -> str:
    """Every file that the cell adds: content, mode, time, where a link leads."""
    with containers.idle(image, used) as container:
        status, output = container.exec_run(["sh", "-c", FILES])
    assert status == 0
    assert isinstance(output, bytes)
    return output.decode()


def test_docker_build_makes_the_same_files(
    built: str, name: str, repository: Project, used_engine: Engine
) -> None:
    """As images that are put together from packed layers have."""
    cell = repository.default
    with (
        session.prepared(repository, [cell], os.environ) as (used, state, machine),
        session.with_packages(machine, [cell], repository, used, state, os.environ) as machine,
    ):
        bake = plan.bake([cell], repository.matrix, replace(machine, output=plan.ADDED))
        bake["target"][plan.target_name(cell)]["tags"] = [name]
        buildkit.build(bake, [cell], used, repository.root, state, sys.stderr)
    assert listing(name, used_engine) == listing(built, used_engine)


def test_what_comes_after_the_layers_is_there(
    built: str, name: str, repository: Project, used_engine: Engine
) -> None:
    """Such an image is made whole, and packed afterwards."""
    cell = repository.default
    text = render.dockerfile(cell, repository.matrix, repository.templates)
    more = text + "RUN --network=none python -c 'import torch; print(torch.__version__)' > /after\n"
    with session.prepared(repository, [cell], os.environ) as (used, state, machine):
        machine = replace(machine, dockerfiles={cell.id: more}, inputs={cell.id: {"Dockerfile": "another"}})
        images = assemble.assemble([cell], repository, machine, used, state, os.environ).images
        assemble.load({name: images[cell.id]}, used)
    with containers.idle(name, used_engine) as container:
        assert container.exec_run(["cat", "/after"]).output == b"2.13.0+cpu\n"
