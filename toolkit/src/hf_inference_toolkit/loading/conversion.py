"""Conversions to OpenVINO in another process, for multi-model endpoints.

There, a conversion must not slow down the other models' passes, and must leave no memory behind. They run one at a
time, with the lowest priority. `convert.py` is the program.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Optional

from hf_inference_toolkit.logs import event
from hf_inference_toolkit.runtimes import memory
from hf_inference_toolkit.runtimes.acceleration import OtherProcess
from hf_inference_toolkit.runtimes.openvino import UnsuitableError
from hf_inference_toolkit.settings import Settings

MODULE = "hf_inference_toolkit.loading.convert"
# What begins the line with the reason of a failure.
REASON = "reason: "
# Free memory that a conversion needs: that of the process, and copies of the weights.
PROCESS_BYTES = 1 << 30
COPIES = 4
_ONE_AT_A_TIME = threading.Lock()


class Conversion(OtherProcess):
    """The conversion of one model. `home` is the folder of the result, which is kept only in HF_HOME."""

    def __init__(self, settings: Settings, dtype: str, weights: int) -> None:
        """`weights` are the bytes of the model's weights."""
        self._is_kept = settings.keeps_cache
        cache = Path(settings.hub_cache)
        self.home = str(cache if self._is_kept else cache / "conversions" / os.urandom(8).hex())
        self._settings = settings._replace(
            multi_model=False, runtime="openvino", dtype=dtype, hub_cache=self.home, keeps_cache=True
        )
        self._weights = weights
        self._process: Optional["subprocess.Popen[bytes]"] = None
        self._is_cancelled = False

    def run(self) -> None:
        """See OtherProcess."""
        with _ONE_AT_A_TIME:
            needed, free = PROCESS_BYTES + COPIES * self._weights, memory.available()
            if needed > free:
                message = "the conversion needs {} MB of memory, and {} MB are free"
                raise UnsuitableError(message.format(needed >> 20, free >> 20))
            event(20, "converting to OpenVINO", folder=self._settings.model_dir)
            output = self._run()
        if self._is_cancelled:
            raise UnsuitableError("the model is being unloaded")
        if self._process is not None and self._process.returncode != 0:
            lines = [line for line in output.splitlines() if line.strip()]
            reasons = [line[len(REASON) :] for line in lines if line.startswith(REASON)]
            raise UnsuitableError((reasons or lines or ["the conversion was ended"])[-1][:300])

    def _run(self) -> str:
        if self._is_cancelled:
            return ""
        self._process = subprocess.Popen(  # noqa: S603 - the arguments are ours
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=str(Path(__file__).parents[2]),
        )
        if self._is_cancelled:  # meanwhile
            self._process.kill()
        sent = json.dumps(self._settings._asdict()).encode("utf-8")
        output, _ = self._process.communicate(sent)
        return output.decode("utf-8", "replace")

    def discard(self) -> None:
        """See OtherProcess."""
        if not self._is_kept:
            shutil.rmtree(self.home, ignore_errors=True)

    def cancel(self) -> None:
        """End it, whether it runs or waits."""
        self._is_cancelled = True
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.kill()
