"""Errors that are answered with their own status and message."""


class BaseInferenceToolkitError(Exception):
    """An error with an HTTP status, a message for the client, and a reason phrase."""

    def __init__(self, status_code: int, message: str, phrase: str) -> None:
        super().__init__(status_code, message, phrase)
        self.status_code = status_code
        self.message = message
        self.phrase = phrase


class GenericInferenceToolkitError(BaseInferenceToolkitError):
    """An error of the script's own."""

    def __init__(self, status_code: int, message: str = "Invalid Request", phrase: str = "") -> None:
        super().__init__(status_code, message, phrase or message)


class UnsupportedFormatError(BaseInferenceToolkitError):
    """A content type that cannot be read or written."""

    def __init__(self, content_type: str) -> None:
        super().__init__(415, "Content type {} is not supported".format(content_type), "Unsupported Format")
