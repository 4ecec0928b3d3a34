"""The tasks: one table with everything that differs between them before a model is loaded."""

from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple, Type

from hf_inference_toolkit.annotations import JsonObject
from hf_inference_toolkit.content.payload import unknown
from hf_inference_toolkit.tasks import architectures
from hf_inference_toolkit.tasks.feature_extraction import FeatureExtraction
from hf_inference_toolkit.tasks.fill_mask import FillMask
from hf_inference_toolkit.tasks.question_answering import QuestionAnswering
from hf_inference_toolkit.tasks.sentence_embeddings import SentenceEmbeddings, SentenceSimilarity
from hf_inference_toolkit.tasks.summarization import Summarization
from hf_inference_toolkit.tasks.task_name import TaskName
from hf_inference_toolkit.tasks.text2text_generation import Text2TextGeneration
from hf_inference_toolkit.tasks.text_classification import TextClassification, ZeroShotClassification
from hf_inference_toolkit.tasks.text_generation import TextGeneration
from hf_inference_toolkit.tasks.text_ranking import TextRanking
from hf_inference_toolkit.tasks.text_task import TextTask
from hf_inference_toolkit.tasks.token_classification import TokenClassification
from hf_inference_toolkit.tasks.translation import Translation


class Task(NamedTuple):
    """One task. `name` is its id on the hub.

    `auto_class` and `implementation` are empty where the pipeline of transformers serves the task. `architectures`
    are endings of architecture names: a model whose architecture ends so has this task when HF_TASK is not set.
    """

    name: str
    aliases: Tuple[str, ...] = ()
    auto_class: str = ""
    implementation: Optional[Type[TextTask]] = None
    architectures: Tuple[str, ...] = ()
    # Modules that the task needs besides transformers, and the package of each.
    packages: Tuple[Tuple[str, str], ...] = ()
    # Weights with one of these in their name are not used, and may be missing.
    unused_weights: Tuple[str, ...] = ()


TASKS = (
    Task(
        "text-classification",
        ("sentiment-analysis",),
        "AutoModelForSequenceClassification",
        TextClassification,
        ("ForSequenceClassification",),
    ),
    Task(
        "token-classification",
        ("ner",),
        "AutoModelForTokenClassification",
        TokenClassification,
        ("ForTokenClassification",),
    ),
    Task(
        "feature-extraction",
        (),
        "AutoModel",
        FeatureExtraction,
        ("Model",),
        unused_weights=("pooler",),
    ),
    Task("sentence-embeddings", (), "AutoModel", SentenceEmbeddings, unused_weights=("pooler",)),
    Task("sentence-similarity", (), "AutoModel", SentenceSimilarity, unused_weights=("pooler",)),
    Task("text-ranking", ("sentence-ranking",), "AutoModelForSequenceClassification", TextRanking),
    Task("fill-mask", (), "AutoModelForMaskedLM", FillMask, ("ForMaskedLM",)),
    Task(
        "question-answering",
        (),
        "AutoModelForQuestionAnswering",
        QuestionAnswering,
        ("ForQuestionAnswering",),
    ),
    Task("zero-shot-classification", (), "AutoModelForSequenceClassification", ZeroShotClassification),
    Task("summarization", (), "AutoModelForSeq2SeqLM", Summarization),
    Task("translation", (), "AutoModelForSeq2SeqLM", Translation),
    Task(
        "text2text-generation",
        (),
        "AutoModelForSeq2SeqLM",
        Text2TextGeneration,
        ("ForConditionalGeneration", "MTModel", "WithLMHeadModel", "EncoderDecoderModel"),
    ),
    Task(
        "text-generation",
        ("conversational",),
        "AutoModelForCausalLM",
        TextGeneration,
        ("ForCausalLM", "LMHeadModel"),
    ),
    Task(
        "table-question-answering",
        architectures=("TapasForQuestionAnswering",),
        packages=(("pandas", "pandas"),),
    ),
    Task(
        "automatic-speech-recognition",
        architectures=("WhisperForConditionalGeneration", "ForSpeechSeq2Seq", "ForCTC"),
    ),
    Task("audio-classification", architectures=("ForAudioClassification",)),
    Task("image-classification", architectures=("ForImageClassification",)),
    Task("object-detection", architectures=("ForObjectDetection",)),
    Task("image-segmentation", architectures=("ForSemanticSegmentation",)),
    Task("depth-estimation", architectures=("ForDepthEstimation",)),
    Task("zero-shot-image-classification", architectures=("CLIPModel",)),
    Task("image-feature-extraction", architectures=("ViTModel",)),
)
BY_NAME: Dict[str, Task] = {task.name: task for task in TASKS}
ALIASES: Dict[str, str] = {alias: task.name for task in TASKS for alias in task.aliases}


def parse(requested: str) -> TaskName:
    """The task that HF_TASK names by id, alias or `translation_xx_to_yy`. The name is not checked."""
    if requested.startswith("translation_"):
        source, middle, target = requested[len("translation_") :].rpartition("_to_")
        if middle and source and target:
            return TaskName(requested, "translation", source, target)
    return TaskName(requested, ALIASES.get(requested, requested))


def find(name: str) -> Task:
    """The task of an id. A task that is not in the table is served by its pipeline."""
    return BY_NAME.get(name, Task(name))


def infer(config: JsonObject) -> Optional[str]:
    """The task that the architecture in a model's config.json was made for.

    The tables of the installed transformers say it for images and sound; otherwise the longest ending that fits.
    """
    for architecture in config.get("architectures") or []:
        plain = architecture[2:] if architecture.startswith("TF") else architecture
        listed = architectures.task_of(plain)
        if listed:
            return listed
        endings = [
            (len(end), task.name) for task in TASKS for end in task.architectures if plain.endswith(end)
        ]
        if endings:
            return max(endings)[1]
    return None


def own_tasks() -> List[str]:
    """The tasks that the toolkit serves itself, without a pipeline of transformers."""
    return [task.name for task in TASKS if task.implementation is not None]


def unknown_task(requested: str, pipelines: Iterable[str]) -> str:
    """The message for a task that neither the toolkit nor the installed transformers has."""
    return unknown("task", requested, {*own_tasks(), *ALIASES, "translation_xx_to_yy", *pipelines})
