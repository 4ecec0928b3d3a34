"""An HTTP server for one transformers model.

User code (`code/inference.py`, `handler.py`) raises `InferenceError` to respond with a status and message of its own.
"""

from hf_inference_toolkit.errors import InferenceError

__all__ = ["InferenceError", "__version__"]
__version__ = "0.1.0"
