"""PyTorch or TensorFlow behind one small face: rows of token ids in, numpy arrays out."""

import contextlib
import importlib.util
import threading
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.runtimes import decoding, kernels, threads
from hf_inference_toolkit.runtimes.decoding import OnStep, Sampling

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

    def __init__(self, dtype: str = "float32") -> None:
        self.model: Any = None
        # What HF_DTYPE asks for; `auto` is settled when the framework is there.
        self.dtype = dtype
        # What large matrix products are made by.
        self.kernels = "default"
        if importlib.util.find_spec("safetensors") is None:
            self.weights = tuple(name for name in self.weights if not name.endswith(".safetensors"))
        self._here = threading.local()

    def place(self, model: Any) -> None:
        """Take a model as transformers loaded it, and make it ready to predict."""
        self.model = model

    def slow_down(self) -> bool:
        """Compute by the framework's own products again; whether it did not do that already."""
        return False

    def pipeline_device(self) -> int:
        """The device as `transformers.pipeline` numbers it: -1 is the processor."""
        return -1

    def forward(self, rows: Sequence[Row], pad: int) -> Dict[str, Any]:
        """One pass over rows of any lengths; arrays with a row for each, padded at the end to the longest."""
        raise NotImplementedError

    # Whether `generate` is right for prompts of different lengths, filled up in front.
    generates_padded = False

    def reports_steps(self) -> bool:
        """Whether `generate` of the installed release takes `on_step` and `sampling`."""
        return False

    def generate(
        self,
        rows: Sequence[Row],
        pad: int,
        options: Dict[str, Any],
        on_step: Optional[OnStep] = None,
        sampling: Optional[Sampling] = None,
        with_logprobs: bool = False,
    ) -> List[List[int]]:
        """The sequences that `generate` returns, those of one row next to each other.

        Each begins with the prompt, padded to the longest, or with the decoder's start token. `on_step` is called
        after each step. `sampling` draws the tokens; without it `generate` follows `options`.
        """
        raise NotImplementedError

    def during(self, check: Optional[Callable[[], None]]) -> None:
        """Call `check` between the layers of every pass that this thread makes from here on."""
        self._here.check = check

    def check(self) -> None:
        """Raises when nobody waits for this thread's prediction any more."""
        check = getattr(self._here, "check", None)
        if check is not None:
            check()


def padded(rows: Sequence[Row], pad: int, at_start: bool = False) -> Dict[str, Any]:
    """Rows of different lengths as rectangles of int64, one for each key."""
    import numpy

    longest = max(len(row["input_ids"]) for row in rows)
    out = {}
    for key in rows[0]:
        out[key] = array = numpy.full((len(rows), longest), pad if key == "input_ids" else 0, numpy.int64)
        for place, row in enumerate(rows):
            numbers = row[key]
            if at_start:
                array[place, longest - len(numbers) :] = numbers
            else:
                array[place, : len(numbers)] = numbers
    return out


class Torch(Runtime):
    """PyTorch, on the first GPU where there is one."""

    generates_padded = True

    def __init__(self, dtype: str = "float32") -> None:
        import torch

        super().__init__(dtype)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if hasattr(torch.backends.cuda, "enable_cudnn_sdp"):
            # Its attention is planned anew for each shape of a batch: on an H200 a pass of BERT took 78 ms where it
            # takes 6 without, until all shapes had been seen.
            torch.backends.cuda.enable_cudnn_sdp(False)
        if dtype == "auto":
            self.dtype = "bfloat16" if self._has_bfloat16() and not self._fault("bfloat16") else "float32"
        self.type = getattr(torch, self.dtype)
        fault = self._fault(self.dtype)
        if fault:
            raise StartError(
                "HF_DTYPE={}: PyTorch {} cannot compute in it on this device ({}). Leave HF_DTYPE out, or set "
                "float32".format(self.dtype, torch.__version__, fault)
            )

    def _has_bfloat16(self) -> bool:
        import torch

        if self.device.type == "cpu":
            return threads.has_bfloat16()
        return bool(torch.cuda.get_device_capability()[0] >= 8)

    def _fault(self, dtype: str) -> str:
        """Why the installed release cannot compute in a precision here; nothing where it can."""
        import torch

        try:
            ones = torch.ones(2, 2, dtype=getattr(torch, dtype), device=self.device)
            mixed = torch.nn.functional.layer_norm(ones @ ones, (2,))
            torch.nn.functional.gelu(mixed).softmax(-1).tanh()
        except RuntimeError as problem:
            return str(problem).splitlines()[0]
        return ""

    def place(self, model: Any) -> None:
        """Evaluation mode, the precision asked for, on the device; a look at the clock before each layer."""
        import torch

        # transformers 5 keeps the precision of the file, 4 does not: one answer on both.
        self.model = model.to(device=self.device, dtype=self.type).eval()
        for part in self.model.modules():
            if isinstance(part, torch.nn.ModuleList):
                for layer in part:
                    layer.register_forward_pre_hook(lambda *_: self.check())
        self._quickened = kernels.quicken(self.model) if self.device.type == "cpu" else []
        self.kernels = "oneDNN" if self._quickened else "default"

    def slow_down(self) -> bool:
        """See Runtime."""
        layers, self._quickened, self.kernels = self._quickened, [], "default"
        kernels.restore(layers)
        return bool(layers)

    def pipeline_device(self) -> int:
        """See Runtime."""
        import torch

        return 0 if torch.cuda.is_available() else -1

    def forward(self, rows: Sequence[Row], pad: int) -> Dict[str, Any]:
        """See Runtime."""
        import torch

        tensors = self._tensors(padded(rows, pad))
        with torch.no_grad():
            outputs = self.model(**tensors)
        return {name: outputs[name].float().cpu().numpy() for name in OUTPUTS if name in outputs}

    def _tensors(self, arrays: Dict[str, Any]) -> Dict[str, Any]:
        import torch

        return {key: torch.from_numpy(array).to(self.device) for key, array in arrays.items()}

    def reports_steps(self) -> bool:
        """See Runtime."""
        return decoding.are_supported(self.model.generate)

    def generate(
        self,
        rows: Sequence[Row],
        pad: int,
        options: Dict[str, Any],
        on_step: Optional[OnStep] = None,
        sampling: Optional[Sampling] = None,
        with_logprobs: bool = False,
    ) -> List[List[int]]:
        """See Runtime."""
        import torch

        hooks = on_step and decoding.StepHooks(on_step, sampling, with_logprobs, self.device)
        if hooks:
            options = dict(options, **hooks.arguments())
        at_start = not self.model.config.is_encoder_decoder
        tensors = self._tensors(padded(rows, pad, at_start))
        tensors.pop("token_type_ids", None)
        with torch.no_grad():
            sequences = self.model.generate(**tensors, **options)
            if hooks:
                hooks.finish(sequences)
        return [list(map(int, sequence)) for sequence in sequences.cpu().tolist()]


class TensorFlow(Runtime):
    """TensorFlow, on the device that it chooses."""

    prefix = "TF"
    # Most models on the hub have PyTorch's numbers in their safetensors.
    weights = ("tf_model.h5", "model.safetensors")

    def __init__(self, dtype: str = "float32") -> None:
        import tensorflow

        super().__init__("float32")
        if dtype not in ("float32", "auto"):
            raise StartError("HF_DTYPE={}: with TensorFlow it is float32 or auto".format(dtype))
        # Whoever imported user code before us may have started it already.
        with contextlib.suppress(RuntimeError):
            tensorflow.config.threading.set_intra_op_parallelism_threads(threads.available())
        if "model.safetensors" in self.weights:
            _let_files_be_iterated()

    def pipeline_device(self) -> int:
        """See Runtime."""
        import tensorflow

        return 0 if tensorflow.config.list_physical_devices("GPU") else -1

    def forward(self, rows: Sequence[Row], pad: int) -> Dict[str, Any]:
        """See Runtime."""
        import tensorflow

        tensors = {
            key: tensorflow.constant(value, tensorflow.int32) for key, value in padded(rows, pad).items()
        }
        self.check()
        outputs = self.model(tensors, training=False)
        return {name: outputs[name].numpy() for name in OUTPUTS if name in outputs}

    def generate(
        self,
        rows: Sequence[Row],
        pad: int,
        options: Dict[str, Any],
        on_step: Optional[OnStep] = None,
        sampling: Optional[Sampling] = None,
        with_logprobs: bool = False,
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


def runtime(name: str, dtype: str = "float32") -> Runtime:
    """The runtime of a framework's name as `installed` gives it, in a precision of HF_DTYPE."""
    return Torch(dtype) if name == "pt" else TensorFlow(dtype)
