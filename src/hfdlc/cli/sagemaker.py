"""The commands that run images: `train` and `serve`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hfdlc.cli.options import current_project, some
from hfdlc.errors import UserError

if TYPE_CHECKING:
    from hfdlc.matrix.cells import Cell
    from hfdlc.project import Project

Env = Annotated[
    list[str] | None,
    typer.Option("--env", "-e", metavar="NAME[=VALUE]", help="An environment variable of the container."),
]
EnvFile = Annotated[list[Path] | None, typer.Option(help="A file with one such variable on each line.")]
Gpus = Annotated[bool, typer.Option("--gpus", help="Give the container access to the GPUs of this machine.")]
CellName = Annotated[str, typer.Argument(metavar="CELL", help="Id or glob of a cell.")]


def train(
    cell: CellName,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]PLACE", help="A channel: a file, a folder or s3://BUCKET/PREFIX."),
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option(help="The script. Its folder is copied too; requirements.txt in it needs --online."),
    ] = None,
    source_dir: Annotated[
        Path | None, typer.Option(help="The source folder, with --entry-point instead of --script.")
    ] = None,
    entry_point: Annotated[
        str | None, typer.Option(metavar="FILE", help="The script in SOURCE_DIR: a .py file or a program.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("model.tar.gz"),
    hyperparameter: Annotated[
        list[str] | None,
        typer.Option("--hyperparameter", "-p", help="NAME=VALUE, passed to the script as --NAME VALUE."),
    ] = None,
    hosts: Annotated[
        int, typer.Option(min=1, help="The number of containers, named algo-1, algo-2, ...")
    ] = 1,
    processes: Annotated[
        int | None, typer.Option(min=1, help="The number of processes on each host, started by torchrun.")
    ] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="The folder to mount at /opt/ml/checkpoints.")
    ] = None,
    online: Annotated[bool, typer.Option("--online", help="Give the container network access.")] = False,
    gpus: Gpus = False,
    env: Env = None,
    env_file: EnvFile = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=REGEX", help="A metric in the log. Default: loss, as Trainer and Keras report it."
        ),
    ] = None,
    metrics_file: Annotated[
        Path | None, typer.Option("--metrics", metavar="FILE", help="Write the metrics as JSON.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the metrics as SVG.")] = None,
    shm_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="The size of /dev/shm, such as 2g. Default: half of the memory."),
    ] = None,
) -> None:
    """Run a training script in a built image as SageMaker does, and write model.tar.gz."""
    from hfdlc.build.session import Session
    from hfdlc.sagemaker import channels, environment, job, metrics, source, training

    found = source.find(script, source_dir, entry_point)
    resources = job.Resources(
        online,
        gpus,
        job.size(shm_size) if shm_size else None,
        environment.read(env or [], env_file or [], os.environ),
    )
    parameters = _pairs(hyperparameter or []) | (job.torchrun(processes) if processes else {})
    order = training.Order(
        found,
        channels.read(data or []),
        output,
        hyperparameters=parameters,
        checkpoints=checkpoints,
        resources=resources,
        hosts=hosts,
        metrics=metrics.definitions(metric or []),
        metrics_file=metrics_file,
        plot=plot,
    )
    with Session(current_project(), os.environ) as session:
        training.train(session, _one(session.project, cell), order)


def _pairs(words: list[str]) -> dict[str, str]:
    for word in words:
        if "=" not in word or word.startswith("="):
            raise UserError("not a hyperparameter", location=repr(word), allowed="NAME=VALUE")
    return dict(word.split("=", 1) for word in words)


def serve(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CELL] [MODEL]",
            help="A cell (default: the default cell), and a model folder or model.tar.gz.",
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="The task of the model: HF_TASK in the container.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port on 127.0.0.1.")] = 8080,
    gpus: Gpus = False,
    env: Env = None,
    env_file: EnvFile = None,
) -> None:
    """Serve a model on 127.0.0.1 until Ctrl-C. Default: a small model from the package index.

    For a training cell, the inference image of the same release is used if there is one.
    """
    from hfdlc.build.session import Session
    from hfdlc.sagemaker import endpoint, environment, models

    variables = environment.read(env or [], env_file or [], os.environ)
    words = list(names or [])
    model = Path(words.pop()) if len(words) == 2 or (words and models.is_model(words[-1])) else None
    if len(words) > 1:
        raise UserError("too many arguments", location=" ".join(words), allowed="[CELL] [MODEL]")
    project = current_project()
    cell = _one(project, words[0]) if words else project.default
    with Session(project, os.environ) as session:
        chosen = endpoint.matching(cell, project.cells)
        request = endpoint.Request(model, task, port, variables, gpus)
        endpoint.serve(session, chosen, request)


def _one(project: "Project", name: str) -> "Cell":
    """The one cell that a name or glob selects."""
    from hfdlc.matrix.selector import Filter

    found = some(project, Filter((name,)))
    if len(found) > 1:
        raise UserError("matches several cells", location=name, allowed=", ".join(cell.id for cell in found))
    return found[0]
