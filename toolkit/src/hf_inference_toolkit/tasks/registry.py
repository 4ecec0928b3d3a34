"""Names of tasks: the aliases, the model class of each, and the task that an architecture was made for."""

from typing import Any, Dict, NamedTuple, Optional

from hf_inference_toolkit.content.payload import unknown

ALIASES = {
    "sentiment-analysis": "text-classification",
    "ner": "token-classification",
    "conversational": "text-generation",
}

# The class that loads the head of each task of ours.
AUTO_CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "summarization": "AutoModelForSeq2SeqLM",
    "translation": "AutoModelForSeq2SeqLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "text-generation": "AutoModelForCausalLM",
    "question-answering": "AutoModelForQuestionAnswering",
    "zero-shot-classification": "AutoModelForSequenceClassification",
}

# By the ending of an architecture's name; the first that fits counts.
ARCHITECTURES = (
    ("TapasForQuestionAnswering", "table-question-answering"),
    ("ForQuestionAnswering", "question-answering"),
    ("ForTokenClassification", "token-classification"),
    ("ForSequenceClassification", "text-classification"),
    ("ForMaskedLM", "fill-mask"),
    ("ForCausalLM", "text-generation"),
    ("MTModel", "text2text-generation"),
    ("WithLMHeadModel", "text2text-generation"),
    ("LMHeadModel", "text-generation"),
    ("EncoderDecoderModel", "text2text-generation"),
    ("WhisperForConditionalGeneration", "automatic-speech-recognition"),
    ("ForSpeechSeq2Seq", "automatic-speech-recognition"),
    ("ForCTC", "automatic-speech-recognition"),
    ("ForAudioClassification", "audio-classification"),
    ("ForImageClassification", "image-classification"),
    ("ForObjectDetection", "object-detection"),
    ("ForSemanticSegmentation", "image-segmentation"),
    ("ForDepthEstimation", "depth-estimation"),
    ("CLIPModel", "zero-shot-image-classification"),
    ("ForConditionalGeneration", "text2text-generation"),
    ("ViTModel", "image-feature-extraction"),
    ("Model", "feature-extraction"),
)


class Task(NamedTuple):
    """A task as asked for and as it is run; the languages are those of `translation_xx_to_yy`."""

    asked: str
    name: str
    source: Optional[str] = None
    target: Optional[str] = None


def parse(asked: str) -> Task:
    """The task behind a name that a user may write; the name is not checked against what is installed."""
    if asked.startswith("translation_"):
        source, middle, target = asked[len("translation_") :].rpartition("_to_")
        if middle and source and target:
            return Task(asked, "translation", source, target)
    return Task(asked, ALIASES.get(asked, asked))


def infer(config: Dict[str, Any]) -> Optional[str]:
    """The task that a model's config.json speaks for, by its architecture; None when it does not say."""
    for architecture in config.get("architectures") or []:
        plain = architecture[2:] if architecture.startswith("TF") else architecture
        for ending, task in ARCHITECTURES:
            if plain.endswith(ending):
                return task
    return None


def not_known(asked: str, passed_through: Any) -> str:
    """The message for a task that neither we nor the installed transformers have."""
    return unknown("task", asked, [*AUTO_CLASSES, *ALIASES, "translation_xx_to_yy", *passed_through])
