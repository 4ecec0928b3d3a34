"""Facts: what is made of an engine's and a container's answers."""

import ast
from pathlib import Path

import pytest

from hfdlc.checks import backend, facts
from hfdlc.engine import images
from hfdlc.engine.images import Layer
from hfdlc.errors import HfdlcError
from hfdlc.project import find

CELL = find(Path(__file__)).default


class Image:
    """An image as docker-py gives it: a base, a working folder that was there already, two copies."""

    id = "sha256:image"
    attrs = {"RootFS": {"Layers": ["sha256:base", "sha256:torch", "sha256:toolkit"]}}  # noqa: RUF012

    def history(self) -> list[dict[str, object]]:
        """From the top down."""
        steps = [
            ("CMD", 0),
            ("COPY /layer/ /", 7),
            ("COPY /layer/ /", 900),
            ("WORKDIR /", 0),
            ("debootstrap", 80),
        ]
        return [{"CreatedBy": step, "Size": size} for step, size in steps]


class Container:
    """A container that answers the script."""

    id = "container"

    def __init__(self, answer: str, status: int | None = 0) -> None:
        self.attrs = {"Config": {"Image": "image"}}
        self.answer = (status, (answer.encode(), b"") if not status else (b"", answer.encode()))

    def exec_run(self, argv: list[str], demux: bool) -> object:
        """Whatever is run."""
        return self.answer


ANSWER = """{"python": "3.11", "cuda": %s, "os": "debian12", "packages":
 [["torch", "2.13.0+cpu"], ["Transformers", "5.23.0"], ["hf_inference.toolkit", "0.1.0"]%s]}"""


def look(cuda: str = "null", more: str = "") -> facts.Facts:
    return facts.look(CELL, Container(ANSWER % (cuda, more)), Image(), "sha256:config")  # type: ignore[arg-type]


def test_the_documented_keys() -> None:
    """Programs read these keys in this form."""
    assert look().json() == {
        "python": "3.11",
        "framework_version": "2.13.0",
        "transformers_version": "5.23.0",
        "toolkit_version": "0.1.0",
        "cuda": None,
        "os": "debian12",
        "size": 987,
        "layers": [
            {"digest": "sha256:base", "size": 80},
            {"digest": "sha256:torch", "size": 900},
            {"digest": "sha256:toolkit", "size": 7},
        ],
        "digest": "sha256:image",
        "config_digest": "sha256:config",
    }


def test_packages_keep_their_local_version() -> None:
    """A lock says which build of a framework is meant."""
    assert look().packages["torch"] == "2.13.0+cpu"


def test_a_package_that_is_there_twice_has_both_versions() -> None:
    """Both versions of a package are reported, not only the first one."""
    assert look(more=', ["transformers", "4.4.2"]').transformers_version == "5.23.0, 4.4.2"


@pytest.mark.parametrize(("version", "tag"), [("13.0", "cu130"), ("12.5.1", "cu125"), ("11.0", "cu110")])
def test_cuda_is_written_as_in_a_tag(version: str, tag: str) -> None:
    """A framework's own word for its CUDA becomes the tag's."""
    assert look(cuda=f'"{version}"').cuda == tag


def test_container_that_does_not_answer_is_an_error() -> None:
    """An error says which image, with the last lines."""
    broken = Container("no Python here", status=127)
    with pytest.raises(HfdlcError, match="no Python here"):
        facts.look(CELL, broken, Image())  # type: ignore[arg-type]


def test_program_without_an_exit_code_is_an_error() -> None:
    """The engine has none if the container ends first: it counted as success."""
    container = Container(ANSWER % ("null", ""), status=None)
    for run in (lambda: facts.look(CELL, container, Image()), lambda: backend.host(container).run("true")):  # type: ignore[arg-type]
        with pytest.raises(HfdlcError, match="no exit code"):
            run()


def test_the_script_is_for_every_python_of_the_matrix() -> None:
    """The images of 2021 have Python 3.6."""
    ast.parse(facts.SCRIPT, feature_version=(3, 6))


def test_an_empty_layer_is_a_layer() -> None:
    """BuildKit makes a layer for WORKDIR even where nothing changes, and some engines give it no size."""
    steps = [("mmdebstrap", 80), ("LABEL a=b", 0), ("WORKDIR /opt/ml", 0), ("COPY /layer/ /", 900)]
    assert images.pair(steps, ["a", "b", "c"]) == (Layer("a", 80), Layer("b", 0), Layer("c", 900))


def test_history_of_the_classic_builder_is_read() -> None:
    """Public images may have been built by Docker before BuildKit."""
    steps = [("/bin/sh -c #(nop) ADD file:1 in / ", 80), ('/bin/sh -c #(nop)  CMD ["bash"]', 0)]
    assert images.pair(steps, ["a"]) == (Layer("a", 80),)


def test_history_and_layers_of_different_length_are_an_error() -> None:
    """Sizes are never given to the wrong layer."""
    with pytest.raises(HfdlcError, match="3 layers, but its history lists 1"):
        images.pair([("COPY / /", 5)], ["a", "b", "c"])
