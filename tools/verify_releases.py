"""Builds, checks and uses cells one by one, on substitute bases where theirs are unreachable.

Run from the repository: `python tools/verify_releases.py [PATTERN...] [--device cpu] [--keep]`. A cell that
was verified with the same inputs is left out, so that a run that was stopped goes on.
"""

import csv
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from packaging.version import Version

import substitutes
import verification
from hfdlc import project as projects
from hfdlc.build import builder
from hfdlc.build.session import Session
from hfdlc.checks import report as reports
from hfdlc.checks import runner
from hfdlc.checks.subject import Subject, invoke, wait_until_ready
from hfdlc.engine import containers
from hfdlc.errors import HfdlcError
from hfdlc.locks import lockfile
from hfdlc.locks.indexes import index_config
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.selector import Filter, select
from hfdlc.process import say
from hfdlc.sagemaker import channels, source, training
from verification import Verification

Uses = Mapping[str, Callable[[], None]]
MODELS = "toolkit/tests/tiny.py"  # makes a small model for each task, inside any image
REQUESTS = "toolkit/tests/requests"  # the documented requests
SENTENCE = {"inputs": "This model is used with sagemaker for inference."}
OTHERS: Mapping[str, Any] = {
    "feature-extraction": SENTENCE,
    "fill-mask": {"inputs": "this model is [MASK] for inference"},
    "summarization": SENTENCE,
    "translation_en_to_fr": SENTENCE,
    "text2text-generation": SENTENCE,
    "text-generation": SENTENCE,
}


class NotRun(Exception):
    """A use that is not possible with the image; the message is the reason."""


def verify(session: Session, cells: Sequence[Cell], *, keep: bool) -> None:
    """Verify cells that are not verified with their inputs of now; `keep`: images that this run built stay.

    Raises HfdlcError at the end where something failed.
    """
    failed, project = [], session.project
    for cell in cells:
        known = verification.read(project.root).get(cell.id)
        if known and known.made_from == verification.address(cell, project.root) and not known.failed:
            say(f"verified {known.date[:10]}: {cell.id}")
            continue
        lacking = lockfile.missing(cell, project.root)
        if lacking and not session.overrides.locks_of(cell):
            say(f"not verified: {cell.id}: its lock lacks {lacking}")
            continue
        found = _verify(session, cell, keep=keep)
        verification.keep(cell, found, project)
        numbers = f"{len(found.passed)} passed, {len(found.failed)} failed, {len(found.not_run)} not run"
        say(f"{cell.id}: {numbers}")
        failed += [cell.id] if found.failed else []
    if failed:
        raise HfdlcError(
            f"{len(failed)} cells failed", location=verification.PAGE, hint="make verify-releases"
        )


def _verify(session: Session, cell: Cell, *, keep: bool) -> Verification:
    project, state, engine = session.project, session.state, session.engine
    there, locks = _there(session, cell), session.overrides.locks_of(cell)
    found = Verification(
        digest="",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        made_from=verification.address(cell, project.root),
        toolkit=lockfile.toolkit_version(project.root),
        other_framework=bool(locks),
    )
    try:
        builder.build(session, [cell], disk_check=not locks)
    except HfdlcError as problem:
        return found.model_copy(update={"failed": {"build": str(problem)}})
    try:
        sources = index_config(session.environ)
        with runner.subject(cell, project, engine, state, sources, locks=locks) as subject:
            say(f"checking {cell.id}")
            substitute = substitutes.of(cell.id, engine)
            skip = substitutes.skipped(cell, substitute, session) if substitute else {}
            report = runner.run(subject, skip=skip)
            reports.remember(report, state)
            found = found.model_copy(
                update={
                    "digest": report.digest,
                    "substitute": substitute,
                    "passed": report.passed,
                    "failed": report.failed,
                    "not_run": report.not_run,
                }
            )
            _use(_uses(session, subject), found)
    finally:
        if not (keep or there):
            engine.client.images.remove(cell.id, force=True)
    return found


def _there(session: Session, cell: Cell) -> bool:
    return builder.built_from(session, [cell])[cell.id] is not None


def _use(uses: Uses, found: Verification) -> None:
    """Run each use, and record its result."""
    for name, use in uses.items():
        say(f"using: {name}")
        try:
            use()
        except NotRun as why:
            found.not_run[f"use: {name}"] = str(why)
        except (HfdlcError, AssertionError, ValueError) as problem:  # an answer that is not JSON, too
            found.failed[f"use: {name}"] = str(problem)
        else:
            found.passed.append(f"use: {name}")


def _uses(session: Session, subject: Subject) -> Uses:
    if subject.cell.type == "training":
        return {"examples are trained, and served": lambda: _train(session, subject)}
    requests = dict(OTHERS)
    for file in sorted((subject.root / REQUESTS).glob("*.json")):
        requests[file.stem] = json.loads(file.read_text(), strict=False)
    requests["summarization, with parameters"] = requests.pop("parameterized-request")
    return {
        name: lambda name=name, body=body: _ask(subject, name.partition(",")[0], body)  # type: ignore[misc]
        for name, body in requests.items()
    }


def _ask(subject: Subject, task: str, body: dict[str, Any]) -> None:
    """A small model of the task, made in the image, answers a documented request."""
    if task == "table-question-answering" and (lacking := _lacking_for_tables(subject)):
        raise NotRun(f"it needs {lacking}, which is not in the image")
    models = (subject.root / MODELS).read_text()
    with (
        subject.model(f"{models}\nMAKERS[{task!r}](Path(folder))") as volume,
        subject.serving(task, volume) as container,
    ):
        wait_until_ready(container)
        status, answer = invoke(container, body)
    assert status == 200, f"{status}: {answer}"
    assert answer, "an empty answer"


def _lacking_for_tables(subject: Subject) -> str | None:
    """The package that TAPAS needs (toolkit/README.md), if the cell does not have it."""
    if subject.cell.framework == "tensorflow":
        needed = "tensorflow-probability"
    elif Version(subject.cell.transformers_version) < Version("4.20"):
        needed = "torch-scatter"
    else:
        needed = "pandas"
    return None if needed in subject.locked else needed


def _train(session: Session, subject: Subject) -> None:
    """The example is trained to its accuracy; the same image serves it, and classifies unseen sentences."""
    examples = subject.root / "examples"
    with tempfile.TemporaryDirectory(dir=subject.state.folder("tmp")) as folder:
        output = Path(folder, "model.tar.gz")
        script = examples / f"train_{subject.cell.framework}.py"
        data = channels.read([str(examples / "data")])
        training.train(session, subject.cell, training.Order(source.find(script, None, None), data, output))
        with containers.volume(subject.engine) as volume:
            mount = {volume: {"bind": "/opt/ml/model", "mode": "rw"}}
            with containers.idle(subject.image, subject.engine, mount) as filler:
                filler.put_archive("/opt/ml/model", output.read_bytes())
            with subject.serving("text-classification", volume) as container:
                wait_until_ready(container)
                message = [_is_classified(container, row) for row in unseen(examples)]
    assert sum(message) >= 0.75 * len(message), (
        f"{sum(message)} of {len(message)} unseen sentences are classified correctly"
    )


def unseen(examples: Path) -> list[dict[str, str]]:
    """Some sentences that the example was not trained on, with their labels."""
    with (examples / "data" / "test.csv").open(newline="") as file:
        return list(csv.DictReader(file))[:16]


def _is_classified(container: Any, row: Mapping[str, str]) -> bool:
    status, answer = invoke(container, {"inputs": row["text"]})
    assert status == 200, answer
    return bool(answer[0]["label"] == row["label"])


def main(
    patterns: Annotated[list[str] | None, typer.Argument(help="Ids of cells, or globs.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or gpu.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the images that this run builds.")] = False,
) -> None:
    """Verify cells, and write docs/verified.json and docs/verified.md."""
    try:
        with Session(projects.find(Path.cwd()), os.environ) as session:
            session.overrides = substitutes.overrides(session)
            cells = select(session.project.cells, Filter(tuple(patterns or ()), device=device))
            verify(session, cells, keep=keep)
    except HfdlcError as error:
        say(f"error: {error}")
        raise typer.Exit(error.exit_code) from error


if __name__ == "__main__":
    typer.run(main)
