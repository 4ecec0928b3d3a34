"""The program of `conversion.py`: reads settings as JSON, converts the model and keeps it in `hub_cache`."""

import json
import os
import sys

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading.conversion import REASON
from hf_inference_toolkit.settings import Settings


def main() -> int:
    """0, or 1 after a line with the reason."""
    os.nice(19)
    settings = Settings(**json.load(sys.stdin))
    from hf_inference_toolkit.loading import hub, loader
    from hf_inference_toolkit.tasks.service import no_check

    hub.prepare(settings)
    try:
        loader.load_standard(settings).warm_up(no_check)
    except StartError as problem:
        print(REASON + str(problem.__cause__ or problem))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
