"""Proving cells one by one: built, checked, used; what was shown is kept, and the next run goes on."""

import csv
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from packaging.version import Version

from hfdlc.build import builder, stand_in
from hfdlc.build.session import Session
from hfdlc.checks import proofs, runner, sizes
from hfdlc.checks import report as reports
from hfdlc.checks.proofs import Proof
from hfdlc.checks.subject import Subject, invoke, wait_until_ready
from hfdlc.engine import containers
from hfdlc.errors import HfdlcError
from hfdlc.locks import lockfile
from hfdlc.locks.indexes import package_sources
from hfdlc.matrix.cells import Cell
from hfdlc.process import say
from hfdlc.sagemaker import training

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
    """A use that the image cannot have, and why."""


def prove(session: Session, cells: Sequence[Cell], *, stand_ins: bool, keep: bool) -> None:
    """Prove cells that are not proved as they are now; `keep` keeps images that this run has built.

    Raises HfdlcError at the end where something failed.
    """
    failed, project = [], session.project
    for cell in cells:
        known = proofs.read(project.root).get(cell.id)
        if known and known.made_from == proofs.address(cell, project.root) and not known.failed:
            say(f"proved {known.date[:10]}: {cell.id}")
            continue
        lacking = lockfile.missing(cell, project.root)
        if lacking and not (stand_ins and lockfile.stood_in(cell, project.root)):
            say(f"not proved: {cell.id}: its lock lacks {lacking}")
            continue
        proof = _prove(session, cell, stand_ins=stand_ins, keep=keep)
        if proof.failed and known:  # the size that the next check compares with is one that was fine
            proof = proof.model_copy(update={"sizes": known.sizes})
        proofs.keep(cell, proof, project)
        say(
            f"{cell.id}: {len(proof.passed)} passed, {len(proof.failed)} failed, {len(proof.not_run)} not run"
        )
        failed += [cell.id] if proof.failed else []
    if failed:
        raise HfdlcError(f"{len(failed)} cells failed; {proofs.PAGE} says in what", hint="hfdlc prove")


def _prove(session: Session, cell: Cell, *, stand_ins: bool, keep: bool) -> Proof:
    project, state, used = session.project, session.state, session.engine
    there = _there(session, cell)
    made_from = proofs.address(cell, project.root)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        builder.build(session, [cell], stand_ins=stand_ins)
    except HfdlcError as problem:
        return Proof(digest="", date=date, made_from=made_from, failed={"build": str(problem)})
    try:
        with runner.subject(cell, project, used, state, package_sources(session.environ)) as subject:
            say(f"checking {cell.id}")
            report = runner.run(subject)
            reports.remember(report, state)
            proof = Proof(
                digest=report.digest,
                date=date,
                made_from=made_from,
                stand_in=stand_in.of(cell.id, used),
                passed=report.passed,
                failed=report.failed,
                not_run=report.not_run,
                sizes=sizes.read(subject),
            )
            _use(_uses(session, subject), proof)
    finally:
        if not (keep or there):
            used.client.images.remove(cell.id, force=True)
    return proof


def _there(session: Session, cell: Cell) -> bool:
    return builder.built_from(session, [cell])[cell.id] is not None


def _use(uses: Uses, proof: Proof) -> None:
    """Carry out each use, and write down how it went."""
    for name, use in uses.items():
        say(f"using: {name}")
        try:
            use()
        except NotRun as why:
            proof.not_run[f"use: {name}"] = str(why)
        except (HfdlcError, AssertionError) as problem:
            proof.failed[f"use: {name}"] = str(problem)
        else:
            proof.passed.append(f"use: {name}")


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
    """A small model of the task, made inside, answers a documented request."""
    if task == "table-question-answering" and (lacking := _lacking_for_tables(subject)):
        raise NotRun(f"it needs {lacking}, which the image does not hold: the server says so at its start")
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
    """The package that TAPAS needs and the cell does not hold, as the toolkit's documentation has it."""
    if subject.cell.framework == "tensorflow":
        needed = "tensorflow-probability"
    elif Version(subject.cell.transformers_version) < Version("4.20"):
        needed = "torch-scatter"
    else:
        needed = "pandas"
    return None if needed in subject.locked else needed


def _train(session: Session, subject: Subject) -> None:
    """The example is trained to its accuracy; the same image serves it, and tells unseen sentences."""
    examples = subject.root / "examples"
    with tempfile.TemporaryDirectory(dir=subject.state.folder("tmp")) as folder:
        output = Path(folder, "model.tar.gz")
        script = examples / f"train_{subject.cell.framework}.py"
        training.train(session, subject.cell, training.Order(script, examples / "data", output))
        with containers.volume(subject.engine) as volume:
            mount = {volume: {"bind": "/opt/ml/model", "mode": "rw"}}
            with containers.idle(subject.image, subject.engine, mount) as filler:
                filler.put_archive("/opt/ml/model", output.read_bytes())
            with subject.serving("text-classification", volume) as container:
                wait_until_ready(container)
                told = [_is_told(container, row) for row in unseen(examples)]
    assert sum(told) >= 0.75 * len(told), f"{sum(told)} of {len(told)} unseen sentences are told"


def unseen(examples: Path) -> list[dict[str, str]]:
    """Some sentences that the example was not trained on, with their labels."""
    with (examples / "data" / "test.csv").open(newline="") as file:
        return list(csv.DictReader(file))[:16]


def _is_told(container: Any, row: Mapping[str, str]) -> bool:
    status, answer = invoke(container, {"inputs": row["text"]})
    assert status == 200, answer
    return bool(answer[0]["label"] == row["label"])
