"""BuildKit's progress is read as steps of cells."""

import base64
import io
import json

from hfdlc.build.log import BuildLog
from hfdlc.build.progress import Plain

NOW = "2026-11-28T03:07:36.926257718Z"
LATER = "2026-11-28T03:07:37.01Z"


def line(**status: object) -> str:
    return json.dumps(status)


def vertex(name: str, **more: object) -> dict[str, object]:
    return {"digest": name, "name": name, **more}


def test_a_step_knows_its_cell_and_stage() -> None:
    """In a build of several targets the name begins with the target."""
    build_log = BuildLog(["one", "two"])
    list(build_log.read(line(vertexes=[vertex("[two framework 1/1] RUN uv pip install", started=NOW)])))
    (step,) = build_log.steps.values()
    assert (step.target, step.stage, step.instruction) == ("two", "framework", "RUN uv pip install")


def test_alone_a_target_is_not_named() -> None:
    """In a build of one target every step is that target's."""
    build_log = BuildLog(["one"])
    list(build_log.read(line(vertexes=[vertex("[framework 1/1] RUN uv pip install", started=NOW)])))
    (step,) = build_log.steps.values()
    assert (step.target, step.stage) == ("one", "framework")


def test_a_failure_keeps_its_last_lines() -> None:
    """The step that failed is distinguished from those that were cancelled because of it."""
    build_log = BuildLog(["one"])
    name = "[framework 1/1] RUN false"
    written = base64.b64encode(b"no such package\n").decode()
    list(
        build_log.read(
            line(vertexes=[vertex(name, started=NOW), vertex("[other 1/1] RUN sleep", started=NOW)])
        )
    )
    list(build_log.read(line(logs=[{"vertex": name, "data": written}])))
    list(build_log.read(line(vertexes=[vertex(name, completed=NOW, error="exit code: 1")])))
    list(
        build_log.read(
            line(
                vertexes=[
                    vertex("[other 1/1] RUN sleep", completed=NOW, error="context canceled"),
                    vertex("[context 1/1] load", completed=NOW, error="rpc error: code = Unavailable desc"),
                ]
            )
        )
    )
    (failed,) = build_log.failed()
    assert failed.name == name
    assert list(failed.lines) == ["no such package"]


def test_what_ends_after_the_first_failure_is_its_consequence() -> None:
    """Whatever it says, unless a program ended by itself; the order of the lines does not matter."""
    exited = "process did not complete successfully: exit code: "
    build_log = BuildLog(["one", "two", "three", "four"])
    for target, completed, error in (
        ("two", LATER, "failed to read from the session: EOF"),
        ("three", LATER, exited + "1"),
        ("four", LATER, exited + "137"),
        ("one", NOW, "not found"),
    ):
        name = f"[{target} image 1/1] COPY a b"
        list(build_log.read(line(vertexes=[vertex(name, completed=completed, error=error)])))
    assert [step.target for step in build_log.failed()] == ["one", "three"]


def test_a_message_that_begins_like_a_status_is_kept() -> None:
    """It ended the build with a traceback."""
    build_log = BuildLog(["one"])
    assert not list(build_log.read("{driver} is not running\n"))
    assert list(build_log.output) == ["{driver} is not running"]


def test_without_a_terminal_progress_is_plain_lines() -> None:
    """One line when an instruction ends: its cell, its stage and its seconds; none for what was cached."""
    out, build_log = io.StringIO(), BuildLog(["one", "two"])
    ticks = iter([1.0, 3.5])
    progress = Plain(out, {"one": "repository:tag", "two": "repository:other"}, clock=lambda: next(ticks))
    name = "[one framework 1/1] RUN --mount=type=bind,from=wheels uv pip install"
    for text in (
        line(vertexes=[vertex(name, started=NOW)]),
        line(vertexes=[vertex(name, completed=NOW)]),
    ):
        for event in build_log.read(text):
            progress.show(event)
    assert out.getvalue() == "repository:tag | framework: RUN uv pip install | 2.5 s\n"


def test_what_another_cell_does_is_no_failure() -> None:
    """Where cells share a step, BuildKit stops all but one; those are passed over, a real failure is not."""
    out, build_log = io.StringIO(), BuildLog(["one", "two"])
    progress = Plain(out, {"one": "repository:tag", "two": "repository:other"})
    for target, error in (("one", "context canceled"), ("two", "exit code: 1")):
        name = f"[{target} framework 1/1] RUN uv pip install"
        for change in ({"started": NOW}, {"completed": NOW, "error": error}):
            for event in build_log.read(line(vertexes=[vertex(name, **change)])):
                progress.show(event)
    assert out.getvalue() == "repository:other | framework: RUN uv pip install | FAILED\n"


def test_a_line_that_is_no_progress_is_passed_over() -> None:
    """Warnings of other programs do not stop a build."""
    assert list(BuildLog(["one"]).read("WARNING: something")) == []
