"""The task of an architecture, from the auto class tables of the installed transformers.

The name is not sufficient: LlavaForConditionalGeneration has images as input, T5ForConditionalGeneration text.
"""

from typing import Optional, Sequence, Union

from hf_inference_toolkit.tasks import pipeline_task

# Names of tables in transformers.models.auto.modeling_auto. The first with the architecture takes precedence, if the
# installed release has a pipeline for the task.
TABLES = (
    ("DOCUMENT_QUESTION_ANSWERING", "document-question-answering"),
    ("TABLE_QUESTION_ANSWERING", "table-question-answering"),
    ("IMAGE_TEXT_TO_TEXT", "image-text-to-text"),
    ("VISUAL_QUESTION_ANSWERING", "visual-question-answering"),
    ("VISION_2_SEQ", "image-to-text"),
    ("TEXT_TO_WAVEFORM", "text-to-audio"),
    ("TEXT_TO_SPECTROGRAM", "text-to-audio"),
    ("SPEECH_SEQ_2_SEQ", "automatic-speech-recognition"),
    ("CTC", "automatic-speech-recognition"),
    ("AUDIO_CLASSIFICATION", "audio-classification"),
    ("VIDEO_CLASSIFICATION", "video-classification"),
    ("ZERO_SHOT_IMAGE_CLASSIFICATION", "zero-shot-image-classification"),
    ("ZERO_SHOT_OBJECT_DETECTION", "zero-shot-object-detection"),
    ("OBJECT_DETECTION", "object-detection"),
    ("IMAGE_SEGMENTATION", "image-segmentation"),
    ("INSTANCE_SEGMENTATION", "image-segmentation"),
    ("UNIVERSAL_SEGMENTATION", "image-segmentation"),
    ("DEPTH_ESTIMATION", "depth-estimation"),
    ("IMAGE_TO_IMAGE", "image-to-image"),
    ("MASK_GENERATION", "mask-generation"),
    ("KEYPOINT_MATCHING", "keypoint-matching"),
)


def task_of(architecture: str) -> Optional[str]:
    """The pipeline task of an architecture. None for text models and for architectures that are not in the tables."""
    try:
        from transformers.models.auto import modeling_auto
    except ImportError:
        return None
    known = pipeline_task.known_tasks()
    for name, task in TABLES:
        table = getattr(modeling_auto, "MODEL_FOR_{}_MAPPING_NAMES".format(name), {})
        if task in known and any(_holds(classes, architecture) for classes in table.values()):
            return task
    return None


def _holds(classes: Union[str, Sequence[str]], architecture: str) -> bool:
    return architecture in ((classes,) if isinstance(classes, str) else classes)
