"""summarization."""

from hf_inference_toolkit.tasks.text2text_generation import TextToText


class Summarization(TextToText):
    """A shorter text."""

    result = "summary_text"
