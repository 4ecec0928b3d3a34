"""summarization."""

from hf_inference_toolkit.tasks.text2text_generation import Text2TextGeneration


class Summarization(Text2TextGeneration):
    """A shorter text."""

    result = "summary_text"
