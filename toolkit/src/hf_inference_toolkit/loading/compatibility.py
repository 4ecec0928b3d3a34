"""Modules of AWS's inference toolkits for scripts that import them.

`aws_modules/` contains small versions of `sagemaker_inference`, `sagemaker_huggingface_inference_toolkit` and `mms`. It
is last on sys.path, so that the real packages take precedence if they are installed.
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "aws_modules"


def register() -> None:
    """Make the modules importable; calling it again changes nothing."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
