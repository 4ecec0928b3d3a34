"""feature-extraction."""

from typing import Any, Dict, List

from hf_inference_toolkit.tasks.parameters import TRUNCATION
from hf_inference_toolkit.tasks.text_task import Encoded, TextTask, row


class FeatureExtraction(TextTask):
    """The last layer's numbers: for each text a list of one list of tokens, each a list of numbers."""

    parameters = (TRUNCATION,)

    def encode(self, item: Any, options: Dict[str, Any]) -> Encoded:
        """One row."""
        encoding, was_cut = self.tokens(item, None, options)
        return Encoded([row(encoding)], was_cut)

    def decode(
        self, item: Any, encoded: Encoded, outputs: List[Dict[str, Any]], options: Dict[str, Any]
    ) -> Any:
        """One text's numbers: [1, tokens, width]."""
        return [outputs[0]["last_hidden_state"].tolist()]
