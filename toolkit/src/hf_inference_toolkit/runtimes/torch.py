"""PyTorch, on the first GPU or on the CPU."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.runtimes import decoding, kernels, memory, threads
from hf_inference_toolkit.runtimes.base import MODEL_OUTPUTS, Runtime, Tokens, padded
from hf_inference_toolkit.runtimes.decoding import OnStep, RowSampling
from hf_inference_toolkit.runtimes.forward_pass import find_support
from hf_inference_toolkit.runtimes.preparation import Preparation
from hf_inference_toolkit.runtimes.token_batch import TokenBatch

# The part of the free memory that the KV cache of a batch may use; the rest is for passes and other requests.
CACHE_PART = 0.5


class Torch(Runtime):
    """PyTorch, on the first GPU or on the CPU."""

    generates_padded = True

    def __init__(self, dtype: str = "float32") -> None:
        import torch

        super().__init__(dtype)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if hasattr(torch.backends.cuda, "enable_cudnn_sdp"):
            # cuDNN plans its attention for each new batch shape: the first pass of a shape took 78 ms instead of 6
            # (BERT, H200), and batches of texts have many shapes.
            torch.backends.cuda.enable_cudnn_sdp(False)
        if dtype == "auto":
            self.dtype = "bfloat16" if self._has_bfloat16() and not self._fault("bfloat16") else "float32"
        self.type = getattr(torch, self.dtype)
        fault = self._fault(self.dtype)
        if fault:
            raise StartError(
                "HF_DTYPE={}: PyTorch {} does not support it on this device ({}). Unset HF_DTYPE, or set it to "
                "float32".format(self.dtype, torch.__version__, fault)
            )

    def _has_bfloat16(self) -> bool:
        import torch

        if self.device.type == "cpu":
            return threads.has_bfloat16()
        return bool(torch.cuda.get_device_capability()[0] >= 8)

    def _fault(self, dtype: str) -> str:
        """The reason why the installed release cannot compute in a precision on this device, or an empty string."""
        import torch

        try:
            ones = torch.ones(2, 2, dtype=getattr(torch, dtype), device=self.device)
            mixed = torch.nn.functional.layer_norm(ones @ ones, (2,))
            torch.nn.functional.gelu(mixed).softmax(-1).tanh()
        except RuntimeError as problem:
            return str(problem).splitlines()[0]
        return ""

    def place(self, model: Any) -> None:
        """See Runtime. A hook before each layer checks the deadline."""
        # transformers 5 keeps the precision of the file, transformers 4 converts to float32.
        self.model = model.to(device=self.device, dtype=self.type).eval()
        self.watch(self.model)
        self._onednn_layers = kernels.enable_onednn(self.model) if self.device.type == "cpu" else []
        self.kernels = "oneDNN" if self._onednn_layers else "default"

    def watch(self, model: Any) -> None:
        """See Runtime. Text generation makes one pass for each token, so the check ends generation too."""
        import torch

        watched = {id(model): model}
        for part in model.modules():
            if isinstance(part, torch.nn.ModuleList):
                watched.update((id(layer), layer) for layer in part)
            elif hasattr(part, "generate"):
                watched[id(part)] = part
        for part in watched.values():
            part.register_forward_pre_hook(lambda *_: self.check())

    def disable_onednn(self) -> bool:
        """See Runtime."""
        layers, self._onednn_layers, self.kernels = self._onednn_layers, [], "default"
        kernels.disable_onednn(layers)
        return bool(layers)

    def pipeline_device(self) -> int:
        """See Runtime."""
        import torch

        return 0 if torch.cuda.is_available() else -1

    def forward(self, rows: Sequence[Tokens], pad: int) -> Dict[str, Any]:
        """See Runtime."""
        import torch

        tensors = self._tensors(padded(rows, pad))
        with torch.no_grad():
            outputs = self.model(**tensors)
        return {name: outputs[name].float().cpu().numpy() for name in MODEL_OUTPUTS if name in outputs}

    def _tensors(self, arrays: Dict[str, Any]) -> Dict[str, Any]:
        import torch

        return {key: torch.from_numpy(array).to(self.device) for key, array in arrays.items()}

    def reports_steps(self) -> bool:
        """See Runtime."""
        return decoding.are_supported(self.model.generate)

    def generate(
        self,
        rows: Sequence[Tokens],
        pad: int,
        options: Dict[str, Any],
        on_step: Optional[OnStep] = None,
        sampling: Sequence[RowSampling] = (),
    ) -> List[List[int]]:
        """See Runtime."""
        import torch

        at_start = not self.model.config.is_encoder_decoder
        tensors = self._tensors(padded(rows, pad, at_start))
        tensors.pop("token_type_ids", None)
        begin = tensors["input_ids"].shape[1] if at_start else 1
        hooks = on_step and decoding.StepHooks(on_step, sampling, begin, self.device)
        if hooks:
            options = dict(options, **hooks.arguments())
        with torch.no_grad():
            sequences = self.model.generate(**tensors, **options)
            if hooks:
                hooks.finish(sequences)
        return [list(map(int, sequence)) for sequence in sequences.cpu().tolist()]

    def token_batch(self, pad: int) -> Tuple[Optional[TokenBatch], str]:
        """See Runtime."""
        import transformers

        if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (4, 40):
            return None, "it needs transformers 4.40 or newer"
        support = find_support(self.model, self.device, pad)
        if support.forward is None:
            return None, support.reason
        budget = self.kv_cache
        if budget is None:
            budget = int(self._free_memory() * CACHE_PART)
        tokens = budget // support.token_bytes
        return TokenBatch(support.forward, Preparation(self.model, self.device), tokens, self.device), ""

    def _free_memory(self) -> int:
        import torch

        return int(torch.cuda.mem_get_info()[0]) if self.device.type == "cuda" else memory.available()
