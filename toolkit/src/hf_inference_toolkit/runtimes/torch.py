"""PyTorch, on the first GPU or on the CPU."""

import functools
import time
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Sequence, Tuple

from hf_inference_toolkit.annotations import Arrays, Options
from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.runtimes import (
    decoding,
    encoder_decoder_pass,
    forward_pass,
    kernels,
    memory,
    openvino,
    threads,
)
from hf_inference_toolkit.runtimes.acceleration import Acceleration, Reference
from hf_inference_toolkit.runtimes.base import (
    MODEL_OUTPUTS,
    Engine,
    MediaTokens,
    Runtime,
    Samples,
    Tokens,
    padded,
    unpadded,
)
from hf_inference_toolkit.runtimes.decoding import OnStep, RowSampling
from hf_inference_toolkit.runtimes.encoder_decoder_batch import EncoderDecoderBatch
from hf_inference_toolkit.runtimes.openvino import Compiled, Signature, UnsuitableError
from hf_inference_toolkit.runtimes.pipeline_pass import PipelineModel
from hf_inference_toolkit.runtimes.preparation import Preparation
from hf_inference_toolkit.runtimes.token_batch import TokenBatch

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

NAME = "PyTorch"
# The part of the free memory that the KV cache of a batch may use; the rest is for passes and other requests.
CACHE_PART = 0.5


class Torch(Runtime):
    """PyTorch, on the first GPU or on the CPU."""

    generates_padded = True

    def __init__(self, dtype: str = "float32") -> None:
        import torch

        super().__init__(dtype)
        self.engine = Engine(NAME)
        self._acceleration: Optional[Acceleration] = None
        self._compiled: Optional[Compiled] = None
        self._next: Optional[Compiled] = None
        self._onednn_layers: List["nn.Module"] = []
        self._tries_onednn = False
        self._pipeline_model: Optional[PipelineModel] = None
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if hasattr(torch.backends.cuda, "enable_cudnn_sdp"):
            # cuDNN plans its attention for each new batch shape: the first pass of a shape took 78 ms instead of 6
            # (BERT, H200), and batches of texts have many shapes.
            torch.backends.cuda.enable_cudnn_sdp(False)
        if dtype == "auto":
            self.dtype = "bfloat16" if self._has_bfloat16() and not self._fault("bfloat16") else "float32"
        # OpenVINO quantises a model that is loaded in float32.
        loaded = "float32" if self.dtype == "int8" else self.dtype
        self.type = getattr(torch, loaded)
        fault = self._fault(loaded)
        if fault:
            possible = [name for name in ("float32", "bfloat16", "float16") if not self._fault(name)]
            raise StartError(
                "HF_DTYPE={}: PyTorch {} does not support it on this device ({}). Unset HF_DTYPE, or set it to "
                "{}".format(self.dtype, torch.__version__, fault, " or ".join(possible))
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

    def cpus(self) -> int:
        """The number of threads of a pass."""
        import torch

        return int(torch.get_num_threads())

    def accelerate(self, acceleration: Optional[Acceleration], reason: str = "") -> None:
        """Let OpenVINO compute the passes when it is ready; without it, for which reason not."""
        self._acceleration = acceleration
        self.engine = Engine(NAME, reason or "OpenVINO is not ready yet")

    def place(self, model: "PreTrainedModel") -> None:
        """See Runtime. A hook before each layer checks the deadline."""
        # accelerate has placed the layers, and quantised weights cannot be converted.
        is_placed = getattr(model, "hf_device_map", None) is not None or getattr(model, "is_quantized", False)
        if not is_placed:
            # transformers 5 keeps the precision of the file, transformers 4 converts to float32.
            model = model.to(device=self.device, dtype=self.type)
        self.model = model.eval()
        keep_encoder_mask(model)
        self.watch(self.model)
        self.settle_weights(self.model)
        # OpenVINO cannot convert layers that use oneDNN's private operators.
        if self.device.type == "cpu" and self._acceleration is None and not is_placed:
            self._enable_onednn()

    def settle_weights(self, model: "PreTrainedModel") -> None:
        """See Runtime."""
        if not self.maps_weights:
            kernels.copy_mapped_weights(model)

    def _enable_onednn(self) -> None:
        self._onednn_layers = kernels.enable_onednn(self.model)
        self.kernels = "oneDNN" if self._onednn_layers else "default"

    def watch(self, model: "PreTrainedModel") -> None:
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

    def prepare(self, samples: Samples, pad: int) -> None:
        """See Runtime."""
        if self._acceleration is None:
            return
        compiled = self._acceleration.restored(lambda: padded(samples()[0], pad))
        if compiled is None and self._acceleration.is_required:
            try:
                compiled = self._created(samples, pad)
            except UnsuitableError as problem:
                raise StartError(refusal(self.dtype, str(problem))) from problem
        if compiled is not None:
            self._use(compiled)

    def optimize(self, samples: Samples, pad: int) -> None:
        """See Runtime."""
        if self._acceleration is None:
            return
        try:
            self._use(self._created(samples, pad))
        except UnsuitableError as problem:
            self._keep_torch(str(problem))

    def record(self, model: "PreTrainedModel") -> None:
        """See Runtime."""
        if self._acceleration is not None:
            self._pipeline_model = PipelineModel(model)

    def optimize_pipeline(self, is_start: bool) -> None:
        """See Runtime."""
        if self._acceleration is None or self._pipeline_model is None:
            return
        is_required = self._acceleration.is_required
        try:
            arrays, constants = self._pipeline_model.example()
            compiled = self._acceleration.restored(lambda: arrays) if is_start else None
            if compiled is None and (is_required or not is_start):
                compiled = self._created_for_pipeline(self._pipeline_model, arrays, constants)
        except UnsuitableError as problem:
            if is_required:
                raise StartError(refusal(self.dtype, str(problem))) from problem
            self._keep_torch(str(problem))
            return
        if compiled is not None:
            self._pipeline_model.replace(compiled, constants)
            self._announce()

    def _created_for_pipeline(
        self, pipeline_model: PipelineModel, arrays: Arrays, constants: Dict[str, object]
    ) -> Compiled:
        assert self._acceleration is not None  # noqa: S101

        def pass_of(model: "PreTrainedModel") -> Callable[[Arrays], Arrays]:
            return pipeline_model.pass_of(model, constants)

        samples, fixed = pipeline_model.samples(arrays, pass_of(pipeline_model.model))
        reference = Reference(pipeline_model.model, pass_of, lambda _, outputs: [outputs])
        signature = Signature(list(arrays), constants, fixed=fixed)
        return self._acceleration.create(reference, signature, samples)

    def _created(self, samples: Samples, pad: int) -> Compiled:
        assert self._acceleration is not None  # noqa: S101
        arrays = [padded(rows, pad) for rows in samples()]
        try:
            self._pass_of(self.model)(arrays[-1])
        except Exception:  # the longest has more tokens than the model has positions
            arrays.pop()
        reference = Reference(self.model, self._pass_of, _rows)
        signature = Signature(list(arrays[0]), {"return_dict": True})
        return self._acceleration.create(reference, signature, arrays)

    def _use(self, compiled: Compiled) -> None:
        """Let the next pass use OpenVINO."""
        self._next = compiled
        self._announce()

    def _announce(self) -> None:
        self._acceleration = None
        self.engine = Engine(openvino.NAME, since=time.time())
        # The weights of matrix products are packed in memory.
        memory.drop_mapped(openvino.WEIGHTS)
        event(20, "OpenVINO computes the passes from now on", dtype=self.dtype)

    def _keep_torch(self, reason: str) -> None:
        self._acceleration = None
        self._tries_onednn = True
        self.engine = Engine(NAME, "OpenVINO cannot serve the model: {}".format(reason))
        event(30, "PyTorch serves the model, because OpenVINO cannot: {}".format(reason))

    def forward(self, rows: Sequence[Tokens], pad: int) -> Arrays:
        """See Runtime."""
        if self._next is not None:
            self._compiled, self._next = self._next, None
            _release_weights(self.model)
        if self._compiled is not None:
            return self._compiled(padded(rows, pad, multiple=self._compiled.multiple))
        arrays = padded(rows, pad)
        if self._tries_onednn:
            self._tries_onednn = False
            self._enable_onednn()
            try:
                return self._pass_of(self.model)(arrays)
            except Exception:  # the model's code may access weights that were repacked
                self.disable_onednn()
        return self._pass_of(self.model)(arrays)

    def _pass_of(self, model: "PreTrainedModel") -> Callable[[Arrays], Arrays]:
        import torch

        def run(arrays: Arrays) -> Arrays:
            with torch.no_grad():
                outputs = model(**self._tensors(arrays))
            return {name: outputs[name].float().cpu().numpy() for name in MODEL_OUTPUTS if name in outputs}

        return run

    def _tensors(self, arrays: Arrays) -> Dict[str, "Tensor"]:
        import torch

        return {key: torch.from_numpy(array).to(self.device) for key, array in arrays.items()}

    def reports_steps(self) -> bool:
        """See Runtime."""
        return decoding.are_supported(self.model.generate)

    def generate(
        self,
        rows: Sequence[Tokens],
        pad: int,
        options: Options,
        on_step: Optional[OnStep] = None,
        sampling: Sequence[RowSampling] = (),
    ) -> List[List[int]]:
        """See Runtime."""
        import torch

        at_start = not self.model.config.is_encoder_decoder
        tensors = self._tensors(padded(rows, pad, at_start))
        tensors.pop("token_type_ids", None)
        if isinstance(rows[0], MediaTokens):
            tensors.update({name: one.to(self.device) for name, one in rows[0].media.items()})
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
        has_encoder = self.model.config.is_encoder_decoder
        find = encoder_decoder_pass.find_support if has_encoder else forward_pass.find_support
        support = find(self.model, self.device, pad)
        if support.forward is None:
            return None, support.reason
        if self.kv_cache is None:
            # The batches of adapters share it.
            self.kv_cache = int(self._free_memory() * CACHE_PART)
        tokens = self.kv_cache // support.token_bytes
        kind = EncoderDecoderBatch if has_encoder else TokenBatch
        return kind(support.forward, Preparation(self.model, self.device), tokens, self.device), ""

    def _free_memory(self) -> int:
        import torch

        return int(torch.cuda.mem_get_info()[0]) if self.device.type == "cuda" else memory.available()


def keep_encoder_mask(model: "PreTrainedModel") -> None:
    """Let `generate` give models with an encoder the mask of padded inputs, which transformers 4.49 leaves out.

    Without it the shorter texts of a batch attend to padding. Remove this when 4.49 is no longer served. See
    https://github.com/huggingface/transformers/issues/36293.
    """
    import transformers

    if not transformers.__version__.startswith("4.49.") or not model.config.is_encoder_decoder:
        return
    prepare = model.prepare_inputs_for_generation

    @functools.wraps(prepare)
    def prepared(
        *args: object, attention_mask: Optional["Tensor"] = None, **more: object
    ) -> Dict[str, object]:
        inputs: Dict[str, object] = prepare(*args, attention_mask=attention_mask, **more)
        if attention_mask is not None:
            inputs.setdefault("attention_mask", attention_mask)
        return inputs

    model.prepare_inputs_for_generation = prepared


def refusal(dtype: str, reason: str) -> str:
    """The message for a start that requires OpenVINO."""
    if dtype == "int8":
        return "HF_DTYPE=int8 needs OpenVINO: {}. Set HF_DTYPE to another precision".format(reason)
    return "HF_RUNTIME=openvino: {}. Set HF_RUNTIME to auto or torch".format(reason)


def _rows(inputs: Arrays, outputs: Arrays) -> List[Arrays]:
    """The outputs of each row of a pass, without padding."""
    count, longest = inputs["input_ids"].shape
    mask = inputs.get("attention_mask")
    lengths = [longest] * count if mask is None else [int(row.sum()) for row in mask]
    return [
        {name: unpadded(name, array[place], length) for name, array in outputs.items()}
        for place, length in enumerate(lengths)
    ]


def _release_weights(model: "PreTrainedModel") -> None:
    """Free the memory of weights. The configuration and the class of the model stay."""
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.new_empty(0)
