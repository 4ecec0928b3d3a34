"""Whether an image is up to date: one definition for plan, build, publish and clean.

An image is up to date when the engine (for `publish --build`: the registry) has it, and its label has the
inputs that the cell has now.
"""

from docker.errors import ImageNotFound

from hfdlc.build import bases
from hfdlc.dockerfile import inputs, render
from hfdlc.dockerfile.inputs import Inputs
from hfdlc.engine.detect import Engine
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.schema import Bootstrap
from hfdlc.project import Project

IMAGES = frozenset({"base", "installer_base", "compiler_base", "pip_base"})  # inputs that are images


def label(image: str, engine: Engine) -> str | None:
    """The label of an image's inputs: None where there is no such image, empty where it has no label."""
    try:
        return str((engine.client.images.get(image).labels or {}).get(inputs.LABEL, ""))
    except ImageNotFound:
        return None


def changed(before: str, now: Inputs) -> list[str]:
    """The inputs that differ between a label and a cell; empty where the image is up to date.

    An image that is not in `now`, because its digest is unknown here, is not compared.
    """
    known = {name: value for name, value in inputs.read(before).items() if name in now or name not in IMAGES}
    return inputs.changed(known, now)


def is_up_to_date(cell: Cell, now: Inputs, engine: Engine) -> bool:
    """Whether the engine has the cell's image, made from these inputs."""
    found = label(cell.id, engine)
    return found is not None and not changed(found, now)


class ImagesHere:
    """What is known of the images in an engine without asking a registry; each is looked up once."""

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine
        images = engine.client.api.images(filters={"label": inputs.LABEL}) if engine else []
        self._labels = {
            tag: str(image["Labels"][inputs.LABEL]) for image in images for tag in image["RepoTags"] or []
        }
        self._identities: dict[tuple[str, int], str | None] = {}

    def label(self, image: str) -> str | None:
        """The label of an image's inputs; None where there is no such image, or it has no label."""
        return self._labels.get(image)

    def inputs(self, cell: Cell, project: Project) -> dict[str, str]:
        """The inputs of a cell; base images that the engine lacks are left out."""
        bootstraps = render.bootstraps(cell, project.matrix)
        found = {
            name: self._identity(image, bootstraps.get(name))
            for name, image in render.images(cell, project.matrix).items()
        }
        return inputs.of(cell, project.root, {name: image for name, image in found.items() if image})

    def _identity(self, image: str, bootstrap: Bootstrap | None) -> str | None:
        key = (image, id(bootstrap))  # it belongs to the matrix, like the cells
        if self._engine and key not in self._identities:
            self._identities[key] = bases.known(image, bootstrap, self._engine)
        return self._identities.get(key)
