"""PyTorch or TensorFlow behind one small face: rows of token ids in, numpy arrays out."""

import importlib.util
import threading
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from hf_inference_toolkit.errors import StartError

Row = Dict[str, List[int]]
# The keys of a row that a model takes.
KEYS = ("input_ids", "attention_mask", "token_type_ids")
# Where the outputs that tasks use stand in an encoder-decoder's or encoder's answer.
OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state")


def installed() -> str:
    """`pt` or `tf`: the framework of this image. PyTorch where there are both."""
    for module, name in (("torch", "pt"), ("tensorflow", "tf")):
        if importlib.util.find_spec(module) is not None:
            return name
    raise StartError("neither torch nor tensorflow is installed: the image is not complete")


class Runtime:
    """A loaded model on its device."""

    # The prefix of this framework's classes in transformers.
    prefix = ""
    # Files with weights that it reads, the best first; in 2021 nobody knew safetensors.
    weights: Tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")

    def __init__(self) -> None:
        self.model: Any = None
        if importlib.util.find_spec("safetensors") is None:
            self.weights = tuple(name for name in self.weights if not name.endswith(".safetensors"))
        self._here = threading.local()

    def place(self, model: Any) -> None:
        """Take a model as transformers loaded it, and make it ready to predict."""
        self.model = model

    def pipeline_device(self) -> int:
        """The device as `transformers.pipeline` numbers it: -1 is the processor."""
        return -1

    def forward(self, rows: Sequence[Row], pad: int) -> Dict[str, Any]:
        """One pass over rows of any lengths; arrays with a row for each, padded at the end to the longest."""
        raise NotImplementedError

    def generate(self, rows: Sequence[Row], pad: int, options: Dict[str, Any]) -> List[List[int]]:
        """The sequences that `generate` makes of rows, each with what its model puts in front."""
        raise NotImplementedError

    def during(self, check: Optional[Callable[[], None]]) -> None:
        """Call `check` between the layers of every pass that this thread makes from here on."""
        self._here.check = check

    def check(self) -> None:
        """Raises when nobody waits for this thread's prediction any more."""
        check = getattr(self._here, "check", None)
        if check is not None:
            check()


def padded(rows: Sequence[Row], pad: int, at_start: bool = False) -> Dict[str, List[List[int]]]:
    """Rows of different lengths as rectangles, one for each key."""
    longest = max(len(row["input_ids"]) for row in rows)
    out = {}
    for key in rows[0]:
        fill = pad if key == "input_ids" else 0
        filled = [[fill] * (longest - len(row[key])) for row in rows]
        out[key] = [gap + row[key] if at_start else row[key] + gap for gap, row in zip(filled, rows)]
    return out


class Torch(Runtime):
    """PyTorch, on the first GPU where there is one."""

    def place(self, model: Any) -> None:
        """Evaluation mode, float32, on the device; a look at the clock before each layer."""
        import torch

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # transformers 5 keeps the precision of the file, 4 does not: one answer on both.
        self.model = model.float().to(self.device).eval()
        for part in self.model.modules():
            if isinstance(part, torch.nn.ModuleList):
                for layer in part:
                    layer.register_forward_pre_hook(lambda *_: self.check())

    def pipeline_device(self) -> int:
        """See Runtime."""
        import torch

        return 0 if torch.cuda.is_available() else -1

    def forward(self, rows: Sequence[Row], pad: int) -> Dict[str, Any]:
        """See Runtime."""
        import torch

        tensors = {key: torch.tensor(value, device=self.device) for key, value in padded(rows, pad).items()}
        with torch.no_grad():
            outputs = self.model(**tensors)
        return {name: outputs[name].float().cpu().numpy() for name in OUTPUTS if name in outputs}

    def generate(self, rows: Sequence[Row], pad: int, options: Dict[str, Any]) -> List[List[int]]:
        """See Runtime."""
        import torch

        at_start = not self.model.config.is_encoder_decoder
        tensors = {
            key: torch.tensor(value, device=self.device) for key, value in padded(rows, pad, at_start).items()
        }
        tensors.pop("token_type_ids", None)
        with torch.no_grad():
            sequences = self.model.generate(**tensors, **options)
        return [list(map(int, sequence)) for sequence in sequences.cpu().tolist()]


class TensorFlow(Runtime):
    """TensorFlow, on the device that it chooses."""

    prefix = "TF"
    # Most models on the hub have PyTorch's numbers in their safetensors.
    weights = ("tf_model.h5", "model.safetensors")

    def __init__(self) -> None:
        super().__init__()
        if "model.safetensors" in self.weights:
            _let_files_be_iterated()

    def pipeline_device(self) -> int:
        """See Runtime."""
        import tensorflow

        return 0 if tensorflow.config.list_physical_devices("GPU") else -1

    def forward(self, rows: Sequence[Row], pad: int) -> Dict[str, Any]:
        """See Runtime."""
        import tensorflow

        tensors = {key: tensorflow.constant(value) for key, value in padded(rows, pad).items()}
        self.check()
        outputs = self.model(tensors, training=False)
        return {name: outputs[name].numpy() for name in OUTPUTS if name in outputs}

    def generate(self, rows: Sequence[Row], pad: int, options: Dict[str, Any]) -> List[List[int]]:
        """See Runtime."""
        import tensorflow

        at_start = not self.model.config.is_encoder_decoder
        tensors = {key: tensorflow.constant(value) for key, value in padded(rows, pad, at_start).items()}
        tensors.pop("token_type_ids", None)
        self.check()
        sequences = self.model.generate(**tensors, **options)
        return [list(map(int, sequence)) for sequence in sequences.numpy().tolist()]


def _let_files_be_iterated() -> None:
    """What transformers 4.57 does with an open safetensors file of PyTorch, and what that file cannot do.

    This may go when no image holds transformers 4 with TensorFlow.
    """
    import safetensors
    from transformers import modeling_tf_pytorch_utils, modeling_tf_utils

    class IterableFile:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._file = safetensors.safe_open(*args, **kwargs)

        def __enter__(self) -> Any:
            self._file.__enter__()
            return self

        def __exit__(self, *problem: Any) -> None:
            self._file.__exit__(*problem)

        def __iter__(self) -> Any:
            return iter(self._file.keys())

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    for module in (modeling_tf_utils, modeling_tf_pytorch_utils):
        module.safe_open = IterableFile


def runtime(name: str) -> Runtime:
    """The runtime of a framework's name as `installed` gives it."""
    return Torch() if name == "pt" else TensorFlow()
