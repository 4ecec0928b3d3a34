import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """The folder of a task's small model, made once for all tests."""
    import tiny

    root = tmp_path_factory.mktemp("models")
    made = {}

    def folder(task):
        maker = tiny.MAKERS[task]
        if maker not in made:
            made[maker] = maker(root / maker.__name__)
        return made[maker]

    return folder
