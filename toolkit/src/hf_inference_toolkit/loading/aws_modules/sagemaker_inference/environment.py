"""The container's environment variables."""

import os
from typing import Optional

base_dir = os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")
model_dir = os.path.join(base_dir, "model")  # noqa: PTH118 - strings, as in the original
code_dir = os.path.join(model_dir, "code")  # noqa: PTH118


class Environment:
    """The values when it is made."""

    def __init__(self) -> None:
        program = os.environ.get("SAGEMAKER_PROGRAM", "inference.py")
        self.module_name = program[: -len(".py")] if program.endswith(".py") else program
        self.model_server_timeout = int(os.environ.get("SAGEMAKER_MODEL_SERVER_TIMEOUT", "60"))
        self.model_server_workers: Optional[str] = os.environ.get("SAGEMAKER_MODEL_SERVER_WORKERS")
        self.default_accept = os.environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "application/json")
        self.http_port = os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080")
        self.inference_http_port = self.http_port
        self.safe_port_range: Optional[str] = os.environ.get("SAGEMAKER_SAFE_PORT_RANGE")
