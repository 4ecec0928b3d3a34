"""The task of an architecture, from the auto class tables of the installed transformers.

The name is not sufficient: LlavaForConditionalGeneration has images as input, T5ForConditionalGeneration text.
"""

import importlib
import re
import sys
from typing import TYPE_CHECKING, FrozenSet, Optional, Sequence, Set, Union

from hf_inference_toolkit.tasks import pipeline_parameters, pipeline_task

if TYPE_CHECKING:
    import transformers

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

# Names of tables in the modules of pipelines.
_TABLE = re.compile(r"(TF_)?MODEL_FOR_\w+_MAPPING(_NAMES)?\Z")


def task_of(architecture: str) -> Optional[str]:
    """The pipeline task of an architecture. None for text models and for architectures that are not in the tables."""
    try:
        # As an attribute of its package it is a placeholder where PyTorch is missing.
        modeling_auto = importlib.import_module("transformers.models.auto.modeling_auto")
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


def taken_by(task: str, pipeline: "transformers.Pipeline") -> FrozenSet[str]:
    """The classes of models that a pipeline is written for, in the installed transformers. Empty if it has no table.

    Pipelines log that a model is of another class, and load it.
    """
    from transformers import pipelines

    task = pipeline_parameters.ALIASES.get(task, task)
    supported = getattr(pipelines, "SUPPORTED_TASKS", {}).get(task, {})
    autos = (*supported.get("pt", ()), *supported.get("tf", ()))
    module = vars(sys.modules[type(pipeline).__module__])
    tables = [getattr(auto, "_model_mapping", None) for auto in autos]
    # Those of image-segmentation and object-detection take more than their auto classes.
    tables += [module[name] for name in sorted(module) if _TABLE.match(name)]
    names: Set[str] = set()
    for table in tables:
        # A table that imports the classes has their names in a table, which refers back to it.
        classes = getattr(table, "_model_mapping", table) if hasattr(table, "_config_mapping") else table
        for found in classes.values() if isinstance(classes, dict) else ():
            several = found if isinstance(found, (tuple, list)) else (found,)
            names.update(one if isinstance(one, str) else one.__name__ for one in several)
    # It takes Donut, which is not in its table.
    if names and task == "document-question-answering":
        names.add("VisionEncoderDecoderModel")
    return frozenset(names)
