"""Serves one transformers model over HTTP, with the same requests and answers on every release.

`InferenceError` is for user code (`code/inference.py`, `handler.py`): raise it to answer with a status and a
message of your own.
"""

from hf_inference_toolkit.errors import InferenceError

__all__ = ["InferenceError", "__version__"]
__version__ = "0.1.0"
