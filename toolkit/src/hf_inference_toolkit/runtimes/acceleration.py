"""How OpenVINO takes over the passes of a model that PyTorch has loaded.

The model is converted, its outputs are compared with PyTorch's, and the result is kept in a folder.
"""

import copy
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Callable, List, Optional, Sequence, Union

from hf_inference_toolkit.annotations import Arrays
from hf_inference_toolkit.runtimes import comparison, openvino
from hf_inference_toolkit.runtimes.converted_models import Store
from hf_inference_toolkit.runtimes.openvino import Compiled, Pass, Signature, UnsuitableError

if TYPE_CHECKING:
    from openvino import Model
    from transformers import PreTrainedModel


class OtherProcess:
    """Converts a model outside of this process."""

    def run(self) -> None:
        """Convert and compare the model, and write it into the store. UnsuitableError with the reason if that fails."""
        raise NotImplementedError

    def discard(self) -> None:
        """Called when the stored model has been read."""
        raise NotImplementedError


class Acceleration:
    """The takeover of one model's passes."""

    def __init__(
        self,
        dtype: str,
        is_required: bool,
        store: Optional[Store],
        cpus: int,
        check: Callable[[], None],
        conversion: Optional["OtherProcess"] = None,
    ) -> None:
        """`conversion` converts the model and writes it into the store."""
        self.dtype = dtype
        # Whether the server must not start without OpenVINO.
        self.is_required = is_required
        self._store = store
        self._cpus = cpus
        self._check = check
        self._conversion = conversion
        self._restored: Optional[Compiled] = None
        # Reading and compiling overlap with the loading of the model by PyTorch.
        self._thread = threading.Thread(target=self._restore, name="openvino", daemon=True)
        self._thread.start()

    @property
    def folder(self) -> Optional[Path]:
        """Where the converted model is stored; None if it is not."""
        return self._store.folder if self._store is not None else None

    def _restore(self) -> None:
        path = self._store.find() if self._store else None
        if path is None or self._store is None:
            return
        try:
            self._restored = self._compile(str(path))
        except Exception as problem:
            self._store.reject("it cannot be compiled ({!r})".format(problem))

    def restored(self, sample: Callable[[], Arrays]) -> Optional[Compiled]:
        """The model that an earlier start has converted; None if there is none that fits and takes the sample."""
        self._thread.join()
        restored, self._restored = self._restored, None
        if restored is None or self._store is None:
            return None
        try:
            restored(sample())
        except Exception as problem:
            self._store.reject("its passes fail ({})".format(openvino.first_line(problem)))
            return None
        return restored

    def create(self, reference: "Reference", signature: Signature, samples: Sequence[Arrays]) -> Compiled:
        """Convert, compare and store a model. UnsuitableError with the reason if it cannot be used."""
        self._check_precision()
        if self._conversion is not None:
            return self._created_elsewhere(self._conversion, samples[0])
        model = reference.model
        own = reference.outputs(reference.passes(model), samples)
        if self.dtype in ("bfloat16", "float16"):
            model = copy.deepcopy(model).float()
        exact = own if model is reference.model else reference.outputs(reference.passes(model), samples)
        converted = openvino.convert(model, samples[0], signature, list(exact[0]))
        del model
        if self.dtype == "int8":
            openvino.quantize(converted)

        def checked(source: Union[str, "Model"]) -> Compiled:
            compiled = self._compile(source)
            try:
                found = reference.outputs(compiled, samples)
            except Exception as problem:  # the traced model fixes shapes that the PyTorch model does not
                raise UnsuitableError("its passes fail: {}".format(openvino.first_line(problem))) from problem
            fault = comparison.fault(self.dtype, exact, own, found)
            if fault:
                raise UnsuitableError("its numbers are wrong: {}".format(fault))
            return compiled

        def stored(folder: Path) -> Compiled:
            return checked(openvino.save(converted, folder))

        compiled = self._store.write(stored) if self._store is not None else None
        return compiled or checked(converted)

    def _created_elsewhere(self, conversion: "OtherProcess", sample: Arrays) -> Compiled:
        try:
            conversion.run()
            self._restore()
            compiled = self.restored(lambda: sample)
        finally:
            conversion.discard()
        if compiled is None:
            raise UnsuitableError("the converted model could not be stored or read")
        return compiled

    def _check_precision(self) -> None:
        known = openvino.supported_precisions()
        if self.dtype not in known:
            raise UnsuitableError(
                "this processor cannot compute in {}; it can in {}".format(self.dtype, ", ".join(known))
            )

    def _compile(self, source: Union[str, "Model"]) -> Compiled:
        try:
            # Where many models are loaded, mapped files would count as free memory.
            is_mapped = self._conversion is None
            return Compiled(source, self.dtype, self._cpus, self._check, is_mapped)
        except RuntimeError as problem:
            raise UnsuitableError(
                "it cannot be compiled: {}".format(openvino.first_line(problem))
            ) from problem


class Reference:
    """The model that PyTorch has loaded, and how its passes are computed and read."""

    def __init__(
        self,
        model: "PreTrainedModel",
        passes: Callable[["PreTrainedModel"], Pass],
        rows: Callable[[Arrays, Arrays], List[Arrays]],
    ) -> None:
        """`rows` splits the outputs of a pass, given its inputs, into those of each row without padding."""
        self.model = model
        self.passes = passes
        self._rows = rows

    def outputs(self, run: Pass, samples: Sequence[Arrays]) -> List[Arrays]:
        """The outputs of all rows of all samples."""
        return [row for sample in samples for row in self._rows(sample, run(sample))]
