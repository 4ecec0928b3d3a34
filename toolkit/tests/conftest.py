import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

# What is said of a class that the installed transformers has not, or not for the installed framework.
MISSING = r"module '?transformers'? has no attribute|requires the PyTorch library"


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


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory):
    """The folder of a small model for one of transformers' own pipelines, by its name in tiny_pipelines.MAKERS."""
    import tiny_pipelines

    root = tmp_path_factory.mktemp("pipelines")
    made = {}

    def folder(name):
        maker = tiny_pipelines.MAKERS[name]
        if maker not in made:
            made[maker] = tiny_pipelines.make(name, root / maker.__name__)
        return made[maker]

    return folder


@pytest.fixture(scope="session")
def pipeline_service(pipeline_folder):
    """The service of such a model; the test is skipped where the installed transformers cannot serve it."""
    import tiny_pipelines

    from hf_inference_toolkit.errors import StartError
    from hf_inference_toolkit.loading.loader import load_model
    from hf_inference_toolkit.settings import Settings

    loaded = {}

    def service(name):
        if name not in loaded:
            task = tiny_pipelines.TASKS[name]
            try:
                folder = str(pipeline_folder(name))
            except (AttributeError, ImportError) as problem:
                if not re.search(MISSING, str(problem)):
                    raise
                pytest.skip(
                    "{}: this release cannot make the model: {}".format(name, str(problem).strip()[:100])
                )
            try:
                loaded[name] = load_model(Settings(model_dir=folder, task=task))
            except StartError as problem:
                loaded[name] = problem
        if isinstance(loaded[name], StartError):
            pytest.skip("{}: {}".format(name, str(loaded[name])[:200]))
        if not tiny_pipelines.works(name):
            pytest.skip("{}: the pipeline of this release fails with this model".format(name))
        return loaded[name]

    return service
