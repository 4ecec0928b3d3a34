"""One served model: its queue, its metrics and the endpoints of its requests."""

from concurrent.futures import Executor
from pathlib import Path

from hf_inference_toolkit.http import openai, tei, tgi
from hf_inference_toolkit.http.invocations import Invocations
from hf_inference_toolkit.http.metrics import Metrics
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.models.model import Model
from hf_inference_toolkit.scheduling.scheduler import Scheduler
from hf_inference_toolkit.scheduling.workers import Workers
from hf_inference_toolkit.settings import Settings

# How long after its deadline a prediction counts as stuck.
PATIENCE_SECONDS = 5.0


class Served:
    """A model and what answers its requests."""

    def __init__(self, settings: Settings, model: Model, workers: Workers, executor: Executor) -> None:
        """`workers` makes the predictions, and `executor` has the threads for large bodies and answers."""
        self.model = model
        self.metrics = Metrics(
            waiting=lambda: self.scheduler.waiting,
            running=lambda: self.scheduler.running,
            cache_usage=lambda: self.scheduler.cache_usage,
            is_ready=lambda: float(model.status == 200),
            load_seconds=lambda: model.load_seconds,
            engine=lambda: model.engine,
        )
        self.scheduler = Scheduler(settings.queue_size, self.metrics, workers)
        self.invocations = Invocations(settings, model, self.scheduler, self.metrics, executor)
        name = settings.model_name or settings.model_id or settings.model_dir
        is_folder = not settings.model_name and (Path(name).is_absolute() or not settings.model_id)
        name = Path(name).name if is_folder else name
        self.openai = openai.OpenAI(self.invocations, model, name, settings.deadline)
        self.tgi = tgi.TextGenerationInference(self.invocations, model, name, settings)
        self.tei = tei.TextEmbeddingsInference(self.invocations, model, settings.deadline)
        self._steps_taken = 0

    def watch(self) -> bool:
        """Replace a thread whose prediction does not end. Returns whether memory of finished passes may be released."""
        if self.scheduler.replace_stuck_worker(PATIENCE_SECONDS):
            event(40, "a prediction does not end; a new thread replaces its thread")
        self.model.stuck(self.scheduler.is_lost)
        is_idle = self.scheduler.steps_taken != self._steps_taken and not self.scheduler.is_busy
        if is_idle:
            self._steps_taken = self.scheduler.steps_taken
        return is_idle
