"""Run the toolkit's tests on releases of transformers from 4.12 to 5.x, and write `docs/tested_releases.md`.

`make test-releases` runs all of them, `make test-releases RELEASES="4.46.1 5.0.0"` some. Each release has a
virtual environment in the state folder, which is kept for the next run, with the output of its tests;
PyTorch (or TensorFlow, where no PyTorch of that time can be installed) and what all releases share are in
another one, which these name.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from packaging.version import Version

from hfdlc.errors import CommandFailed, HfdlcError
from hfdlc.process import run, say
from hfdlc.project import find
from hfdlc.state import State, write_whole

KEPT, PAGE = "docs/tested_releases.json", "docs/tested_releases.md"
TOOLS = (
    "prometheus-client",
    "starlette",
    "uvicorn",
    "pytest",
    "hypothesis",
    "pillow",
    "sentencepiece",
    "protobuf",
    # The extra `fast` of the toolkit, as in the images.
    "httptools",
    "orjson",
    "uvloop",
)
TORCH = ("3.11", ("torch==2.13.0", *TOOLS, "llguidance", "scipy", "soundfile"))
TENSORFLOW = ("3.8", ("tensorflow-cpu==2.10.1", *TOOLS))
# Newer releases of pandas break table question answering of all of these.
PANDAS = "pandas<3"
RELEASES = {
    "4.12.5": TENSORFLOW,
    "4.17.0": TENSORFLOW,
    "4.26.1": TORCH,
    "4.37.2": TORCH,
    "4.46.1": TORCH,
    "4.49.0": TORCH,
    "4.51.3": TORCH,
    "4.56.2": TORCH,
    "5.0.0": TORCH,
    "5.5.0": TORCH,
    "5.23.0": TORCH,
}
# These start Pythons of their own, with packages of their own: no release of transformers is imported.
LEFT_OUT = ("tests/test_old_pythons.py",)
LONGEST_NAME = 120  # characters of a failed test's name on the page
PATIENCE = 1800  # seconds for the tests of one release


@dataclass
class Result:
    """What the tests of a release gave."""

    date: str
    framework: str
    python: str
    passed: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)


def tested(release: str, root: Path, state: State) -> Result:
    """Install a release, and run the tests."""
    python, packages = RELEASES[release]
    result = Result(datetime.now(UTC).date().isoformat(), packages[0].replace("==", " "), python)
    try:
        shared = _environment(python, packages, state)
        own = _own(release, shared, python, state)
    except CommandFailed as error:
        result.failed = [f"installation: {error.output.strip().splitlines()[-1][:200]}"]
        return result
    environ = {**os.environ, "PYTHONPATH": str(root / "toolkit/src"), "OMP_NUM_THREADS": "1"}
    left_out = [f"--ignore={name}" for name in LEFT_OUT]
    argv = [str(own), "-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider", *left_out, "tests"]
    try:
        ended = subprocess.run(
            argv, cwd=root / "toolkit", env=environ, capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        result.failed = [f"not finished after {PATIENCE} s"]
        return result
    (own.parent.parent / "output.txt").write_text(ended.stdout + ended.stderr)
    count(result, ended.returncode, ended.stdout, ended.stderr)
    return result


def count(result: Result, code: int, output: str, errors: str) -> None:
    """Set what pytest's output says. A run that ended in another way, or hides what failed, has failed."""
    numbers = {
        what: int(number) for number, what in re.findall(r"(\d+) (passed|skipped|failed|error)", output)
    }
    result.passed, result.skipped = numbers.get("passed", 0), numbers.get("skipped", 0)
    failed = re.findall(r"^(?:FAILED|ERROR) tests/(\S+)", output, re.MULTILINE)
    # A test's name has its parameters.
    result.failed = [name[:LONGEST_NAME] for name in failed]
    if code not in (0, 1) or not numbers or (code == 1 and not result.failed):
        result.failed.append(f"pytest ended with {code}: {errors.strip()[-200:]}")


def _environment(version: str, packages: tuple[str, ...], state: State) -> Path:
    """The Python of the environment that releases share."""
    folder = state.root / f"test-releases/python{version}"
    python, marker = folder / "bin" / "python", folder / "installed.txt"
    if not marker.is_file() or marker.read_text() != "\n".join(packages):
        run([_interpreter(version), "-m", "venv", "--clear", str(folder)])
        run([str(python), "-m", "pip", "install", "--quiet", *packages])
        marker.write_text("\n".join(packages))
    return python


def _interpreter(version: str) -> str:
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = root.glob(f"versions/{version}.*/bin/python")
    newest = max(found, key=lambda python: Version(python.parents[1].name), default=None)
    return str(newest) if newest else f"python{version}"


def _own(release: str, shared: Path, version: str, state: State) -> Path:
    """The Python of the environment with transformers and what it needs, beside what releases share."""
    folder = state.root / f"test-releases/transformers{release}"
    python, marker = folder / "bin" / "python", folder / "installed.txt"
    if not marker.is_file():
        run([str(shared), "-m", "venv", "--clear", "--without-pip", str(folder)])
        packages = f"lib/python{version}/site-packages"
        (folder / packages / "shared.pth").write_text(f"{shared.parent.parent / packages}\n")
        # Of some packages the newest version for an old Python has no wheel, and cannot be built.
        wheels = ("--quiet", "--only-binary=:all:")
        run([str(python), "-m", "pip", "install", *wheels, f"transformers=={release}", PANDAS])
        marker.write_text(release)
    return python


def _code(name: str) -> str:
    return f"`{name}`"


def page(results: dict[str, Result]) -> str:
    """The page: a row for each release, then what failed."""
    lines = [
        "# Tested releases of transformers",
        "",
        f"Written by `make test-releases` (results in `{KEPT}`): the toolkit tests, also on releases that no",
        "cell has. Skipped tests need something that the release or the machine lacks.",
        f"Not included, because they start other Pythons and packages: {', '.join(map(_code, LEFT_OUT))}.",
        "",
        "| transformers | framework | Python | date | passed | failed | skipped |",
        "|---|---|---|---|---|---|---|",
    ]
    for release, (python, packages) in RELEASES.items():
        framework = packages[0].replace("==", " ")
        if it := results.get(release):
            numbers = f"{it.passed} | {len(it.failed)} | {it.skipped}"
            lines.append(f"| {release} | {it.framework} | {it.python} | {it.date} | {numbers} |")
        else:
            lines.append(f"| {release} | {framework} | {python} | not run | - | - | - |")
    for release, it in results.items():
        if it.failed:
            lines += ["", f"## {release}", "", *(f"- failed: {_code(name)}" for name in it.failed[:20])]
            lines += [f"- and {len(it.failed) - 20} more"] if len(it.failed) > 20 else []
    return "\n".join(lines) + "\n"


def read(root: Path) -> dict[str, Result]:
    """The results of earlier runs."""
    file = root / KEPT
    found = json.loads(file.read_text()) if file.is_file() else {}
    return {release: Result(**found[release]) for release in RELEASES if release in found}


def main(wanted: list[str]) -> int:
    """Test releases, and keep each result at once."""
    root, state = find(Path.cwd()).root, State.of(os.environ)
    if unknown := [release for release in wanted if release not in RELEASES]:
        say(f"error: unknown release {unknown[0]!r}\n  allowed: {', '.join(RELEASES)}")
        return 2
    worst = 0
    for release in wanted or RELEASES:
        say(f"testing transformers {release}")
        try:
            result = tested(release, root, state)
        except HfdlcError as problem:
            say(f"error: {problem}")
            worst = 1
            continue
        results = read(root) | {release: result}
        ordered = {each: results[each] for each in RELEASES if each in results}
        write_whole(root / KEPT, json.dumps({k: asdict(v) for k, v in ordered.items()}, indent=1) + "\n")
        write_whole(root / PAGE, page(ordered))
        say(f"{release}: {result.passed} passed, {len(result.failed)} failed, {result.skipped} skipped")
        worst = max(worst, bool(result.failed))
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
