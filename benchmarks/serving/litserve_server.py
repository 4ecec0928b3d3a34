"""What a user of LitServe would write: texts are collected, padded and classified together.

`python litserve_server.py MODEL PORT BATCH THREADS`.
"""

import sys
from typing import Any

import litserve
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

MODEL, PORT, BATCH, THREADS = sys.argv[1], *map(int, sys.argv[2:5])
PATIENCE = 0.005  # seconds that a batch waits for more texts


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """Text classification in batches."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        """Load the model, once in each worker."""
        torch.set_num_threads(THREADS)
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL)
        self.model = AutoModelForSequenceClassification.from_pretrained(MODEL).eval()

    def decode_request(self, request: dict[str, str]) -> str:
        return request["inputs"]

    def batch(self, inputs: list[str]) -> list[str]:
        return list(inputs)

    def predict(self, texts: list[str]) -> list[list[float]]:
        """The scores of each text."""
        inputs = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            scores: list[list[float]] = self.model(**inputs).logits.softmax(-1).tolist()
        return scores

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        return output

    def encode_response(self, output: list[float]) -> list[dict[str, Any]]:
        """The best label, as the pipeline answers it."""
        best = max(range(len(output)), key=output.__getitem__)
        return [{"label": self.model.config.id2label[best], "score": output[best]}]


if __name__ == "__main__":
    api = Classifier(max_batch_size=BATCH, batch_timeout=PATIENCE)
    server = litserve.LitServer(api, accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")
