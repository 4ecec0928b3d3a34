"""Run test_differential.py on releases of transformers that have pipelines which newer ones do not have.

`python differential_releases.py [pytest arguments]`. Each release gets a virtual environment in the state folder
(HFDLC_STATE) with PyTorch for processors or GPUs, as pip is configured; it is kept for the next run.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

TOOLKIT = Path(__file__).resolve().parents[1]
# The last release with question-answering, summarization, translation and text2text-generation. Its table-question-
# answering fails with pandas 3.
RELEASES = {"4.57.6": ["torch==2.13.0", "transformers==4.57.6", "pandas<3", "hypothesis", "pytest"]}


def state_folder():
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("HFDLC_STATE") or str(Path(cache, "hfdlc")))


def environment(release):
    """The Python of a virtual environment with a release; made where it is missing or holds something else."""
    folder = state_folder() / "differential-transformers{}".format(release)
    python, marker = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(RELEASES[release])
    if not marker.exists() or marker.read_text() != wanted:
        venv.create(str(folder), clear=True, with_pip=True)
        argv = [str(python), "-m", "pip", "install", "--quiet", *RELEASES[release], str(TOOLKIT)]
        subprocess.run(argv, check=True)
        marker.write_text(wanted)
    return python


def main(arguments):
    """The worst exit code of pytest."""
    worst = 0
    for release in RELEASES:
        names = dict(os.environ, PYTHONPATH=str(TOOLKIT / "src"), TOKENIZERS_PARALLELISM="false")
        argv = [str(environment(release)), "-m", "pytest", "-q", "tests/test_differential.py", *arguments]
        print("transformers {}".format(release), flush=True)
        worst = max(worst, subprocess.run(argv, env=names, cwd=str(TOOLKIT)).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
