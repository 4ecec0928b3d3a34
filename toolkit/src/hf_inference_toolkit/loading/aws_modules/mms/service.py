"""Errors that are answered with their own status and message."""


class PredictionException(Exception):  # noqa: N818 - the original's name
    """An error with a message for the client and an HTTP status."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message, error_code)
        self.message = message
        self.error_code = error_code
