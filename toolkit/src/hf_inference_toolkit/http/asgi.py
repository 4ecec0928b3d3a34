"""Types of ASGI: https://asgi.readthedocs.io/en/latest/specs/main.html."""

from typing import Any, Awaitable, Callable, MutableMapping

# The names of a scope and of a message decide the types of their values.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
