"""Logs on standard error, one JSON object a line."""

import json
import logging
import sys
import time
from typing import Iterable, Optional

log = logging.getLogger("hf_inference_toolkit")


class _JsonLines(logging.Formatter):
    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        self._secrets = [secret for secret in secrets if secret]

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        text = json.dumps(line, ensure_ascii=True, default=str)
        for secret in self._secrets:
            text = text.replace(json.dumps(secret)[1:-1], "***")
        return text


def configure(level: int, secrets: Iterable[str] = ()) -> None:
    """Write all logs of this process through one handler, which replaces `secrets` by `***`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers[:] = []
        logging.getLogger(name).propagate = True
    # App._count logs each request, with its id.
    logging.getLogger("uvicorn.access").disabled = True
    for chatty in ("uvicorn.error", "urllib3", "filelock", "httpx", "httpcore", "h5py", "asyncio"):
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)


def event(level: int, message: str, exc_info: Optional[BaseException] = None, **fields: object) -> None:
    """Log a message. `fields` become keys of the JSON object, such as request_id."""
    if log.isEnabledFor(level):
        trace = (type(exc_info), exc_info, exc_info.__traceback__) if exc_info is not None else None
        log.log(level, message, extra={"fields": fields}, exc_info=trace)
