"""TensorFlow, on the device that it chooses."""

import contextlib
from typing import Iterator, List, Optional, Sequence

from hf_inference_toolkit.annotations import Arrays, Options
from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.runtimes import threads
from hf_inference_toolkit.runtimes.base import MODEL_OUTPUTS, Engine, Runtime, Tokens, padded
from hf_inference_toolkit.runtimes.decoding import OnStep, RowSampling


class TensorFlow(Runtime):
    """TensorFlow, on the device that it chooses."""

    prefix = "TF"
    # The safetensors file of most models on the hub was written by PyTorch, and is converted when it is loaded.
    weights = ("tf_model.h5", "model.safetensors")

    def __init__(self, dtype: str = "float32") -> None:
        import tensorflow

        super().__init__("float32")
        self.engine = Engine("TensorFlow", "OpenVINO serves models of PyTorch")
        if dtype not in ("float32", "auto"):
            raise StartError("HF_DTYPE={}: TensorFlow supports float32 and auto".format(dtype))
        # User code may have initialised TensorFlow already.
        with contextlib.suppress(RuntimeError):
            tensorflow.config.threading.set_intra_op_parallelism_threads(threads.available())
        if "model.safetensors" in self.weights:
            _make_safetensors_iterable()

    def pipeline_device(self) -> int:
        """See Runtime."""
        import tensorflow

        return 0 if tensorflow.config.list_physical_devices("GPU") else -1

    def forward(self, rows: Sequence[Tokens], pad: int) -> Arrays:
        """See Runtime."""
        import tensorflow

        tensors = {
            key: tensorflow.constant(value, tensorflow.int32) for key, value in padded(rows, pad).items()
        }
        self.check()
        outputs = self.model(tensors, training=False)
        return {name: outputs[name].numpy() for name in MODEL_OUTPUTS if name in outputs}

    def generate(
        self,
        rows: Sequence[Tokens],
        pad: int,
        options: Options,
        on_step: Optional[OnStep] = None,
        sampling: Sequence[RowSampling] = (),
    ) -> List[List[int]]:
        """See Runtime."""
        import tensorflow

        at_start = not self.model.config.is_encoder_decoder
        arrays = padded(rows, pad, at_start)
        tensors = {key: tensorflow.constant(value, tensorflow.int32) for key, value in arrays.items()}
        tensors.pop("token_type_ids", None)
        self.check()
        sequences = self.model.generate(**tensors, **options)
        return [list(map(int, sequence)) for sequence in sequences.numpy().tolist()]


def _make_safetensors_iterable() -> None:
    """Work around transformers 4.57, which iterates over an open safetensors file of PyTorch.

    Remove this when no image has transformers 4 with TensorFlow.
    """
    import safetensors
    from transformers import modeling_tf_pytorch_utils, modeling_tf_utils

    class IterableFile:
        def __init__(self, *args: object, **kwargs: object) -> None:
            self._file = safetensors.safe_open(*args, **kwargs)

        def __enter__(self) -> "IterableFile":
            self._file.__enter__()
            return self

        def __exit__(self, *problem: object) -> None:
            self._file.__exit__(*problem)

        def __iter__(self) -> Iterator[str]:
            return iter(self._file.keys())

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

    for module in (modeling_tf_utils, modeling_tf_pytorch_utils):
        module.safe_open = IterableFile
