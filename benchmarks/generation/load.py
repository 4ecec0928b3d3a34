"""Clients of a text generation server: streams over plain sockets, and what they saw."""

import asyncio
import json
import statistics
import time
import urllib.parse
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """One text, in seconds and tokens."""

    tokens: int
    first: float
    total: float
    text: str


@dataclass(frozen=True)
class Seen:
    """What all clients saw together."""

    answers: list[Answer]
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return sum(one.tokens for one in self.answers) / self.seconds

    def first(self, percent: int) -> float:
        """Time to the first token, in milliseconds."""
        times = sorted(one.first for one in self.answers)
        return 1000 * times[min(len(times) - 1, len(times) * percent // 100)]

    def short(self, tokens: int) -> float:
        """Median latency of texts with at most so many tokens, in milliseconds."""
        return 1000 * statistics.median(one.total for one in self.answers if one.tokens <= tokens)


@dataclass(frozen=True)
class Dialect:
    """How a server takes prompts: OpenAI's completions, or the toolkit's own route."""

    url: str
    model: str
    is_openai: bool

    def path(self, is_chat: bool) -> str:
        """The route of a request."""
        if not self.is_openai:
            return "/invocations"
        return "/v1/chat/completions" if is_chat else "/v1/completions"

    def body(self, prompt: object, tokens: int) -> dict[str, object]:
        """A request for a stream of exactly so many greedy tokens."""
        if not self.is_openai:
            parameters = {"max_new_tokens": tokens, "return_full_text": False}
            return {"inputs": prompt, "parameters": parameters, "stream": True}
        name = "messages" if isinstance(prompt, list) else "prompt"
        return {
            "model": self.model,
            name: prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def text(self, event: dict[str, object]) -> str:
        """What an event adds."""
        if not self.is_openai:
            return str(event["token"]["text"])  # type: ignore[index]
        choices = event.get("choices") or []
        if not choices:
            return ""
        choice = choices[0]  # type: ignore[index]
        return str(choice.get("text") or (choice.get("delta") or {}).get("content") or "")

    def tokens(self, event: dict[str, object]) -> int:
        """The number of tokens in the last event that has it; 0 elsewhere."""
        if not self.is_openai:
            return int((event.get("details") or {}).get("generated_tokens", 0))  # type: ignore[attr-defined]
        return int((event.get("usage") or {}).get("completion_tokens", 0))  # type: ignore[attr-defined]


async def ask(dialect: Dialect, prompt: object, tokens: int) -> Answer:
    """One stream. RuntimeError unless it has exactly the requested number of tokens."""
    place = urllib.parse.urlsplit(dialect.url)
    body = json.dumps(dialect.body(prompt, tokens)).encode()
    head = (
        f"POST {dialect.path(isinstance(prompt, list))} HTTP/1.1\r\nHost: {place.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    began, first, count, text = time.perf_counter(), 0.0, 0, ""
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=2**22)
    writer.write(head.encode() + body)
    raw = b""
    try:
        while line := await reader.readline():
            raw = line if not count else raw
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            added = dialect.text(event)
            text += added
            if not first and added:
                first = time.perf_counter() - began
            count = max(count, dialect.tokens(event))
    finally:
        writer.close()
    if count != tokens:
        raise RuntimeError(f"{count} of {tokens} tokens from {dialect.url}: {raw[:300]!r}")
    return Answer(count, first, time.perf_counter() - began, text)


def press(dialect: Dialect, work: list[tuple[object, int]], clients: int) -> Seen:
    """So many clients, each with the next request as soon as it has an answer."""

    async def run() -> Seen:
        rest = iter(work)
        answers: list[Answer] = []

        async def client() -> None:
            for prompt, tokens in rest:
                answers.append(await ask(dialect, prompt, tokens))

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return Seen(answers, time.perf_counter() - began)

    return asyncio.run(run())


def converse(dialect: Dialect, system: str, turns: list[str], tokens: int) -> Seen:
    """A conversation: each turn has the whole history in front of it."""

    async def run() -> Seen:
        messages: list[object] = [{"role": "system", "content": system}]
        answers = []
        began = time.perf_counter()
        for turn in turns:
            messages.append({"role": "user", "content": turn})
            answers.append(await ask(dialect, list(messages), tokens))
            messages.append({"role": "assistant", "content": answers[-1].text})
        return Seen(answers, time.perf_counter() - began)

    return asyncio.run(run())
