"""What the engine says of an image."""

from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import NotFound

from hfdlc.engine import images
from hfdlc.errors import HfdlcError

STEP = {"CreatedBy": "COPY /layer/ / # buildkit", "Size": 7}


def image(failures: int) -> Any:
    left = [NotFound("no such image")] * failures

    def history() -> list[dict[str, object]]:
        if left:
            raise left.pop()
        return [STEP]

    return SimpleNamespace(
        id="sha256:1", tags=["cell:1"], history=history, attrs={"RootFS": {"Layers": ["sha256:2"]}}
    )


def test_image_that_is_being_replaced_by_an_equal_one_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    assert [layer.size for layer in images.layers(image(7))] == [7]
    with pytest.raises(HfdlcError, match="was removed from the engine"):
        images.layers(image(8))
