"""What the engine says of an image."""

from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import NotFound

from hfdlc.engine import images
from hfdlc.errors import HfdlcError

STEP = {"CreatedBy": "COPY /layer/ / # buildkit", "Size": 7}
FORGOTTEN = 'Not Found ("snapshot sha256:2 does not exist: not found")'


def image(*problems: str) -> tuple[Any, list[str]]:
    """An image whose history is refused with these words first, and a list of what is done to it."""
    left, done = list(problems), []

    def history() -> list[dict[str, object]]:
        if left:
            raise NotFound(left.pop(0))
        return [STEP]

    def create(name: str, command: list[str], *, labels: dict[str, str]) -> Any:
        done.append(f"create {name}")
        assert labels, "a container that stays behind is found by its labels"
        return SimpleNamespace(remove=lambda: done.append("remove"))

    client = SimpleNamespace(containers=SimpleNamespace(create=create))
    attrs = {"RootFS": {"Layers": ["sha256:2"]}}
    made = SimpleNamespace(id="sha256:1", tags=["cell:1"], history=history, attrs=attrs, client=client)
    return made, done


def test_image_whose_layers_the_engine_forgot_is_unpacked_again() -> None:
    found, done = image(FORGOTTEN)
    assert [layer.size for layer in images.layers(found)] == [7]
    assert done == ["create sha256:1", "remove"]


@pytest.mark.parametrize("problems", [("no such image",), (FORGOTTEN, FORGOTTEN)], ids=["gone", "stays"])
def test_image_that_is_gone_is_an_error_that_names_it(problems: tuple[str, ...]) -> None:
    found, _ = image(*problems)
    with pytest.raises(HfdlcError, match="cell:1: the image was removed from the engine"):
        images.layers(found)
