"""HTTP to a registry: signing in, waiting and trying again."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from hfdlc.errors import HfdlcError

ATTEMPTS = 8
WAIT = wait_random_exponential(multiplier=0.1, max=10)  # seconds
TIMEOUT = (10, 120)  # seconds: to connect, between two bytes
PARAMETER = re.compile(r'(\w+)="([^"]*)"')
# How AWS says what is not allowed, ECR's registry too.
ACTION = re.compile(r"perform:? (?P<action>[\w-]+:\w+)(?: on resource:? (?P<resource>[^\s\"\\]+))?")
LOOPBACK = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?")

# Gives a user and a password; asked with True where the last answer is not taken any more.
Credentials = Callable[[bool], tuple[str, str] | None]


class Passing(Exception):
    """What may go well the next time: the registry is busy, or hung up."""


PASSING = (Passing, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


def retrying() -> Retrying:
    """The attempts at one piece of work, with growing pauses between them."""
    return Retrying(
        retry=retry_if_exception_type(PASSING), stop=stop_after_attempt(ATTEMPTS), wait=WAIT, reraise=True
    )


@contextmanager
def letters(host: str) -> Iterator[None]:
    """What did not go well in the end, as a letter."""
    try:
        yield
    except PASSING as error:
        raise HfdlcError(
            f"the registry does not do what it is asked: {error}",
            where=host,
            then="run this again when it does: it goes on from what is there",
        ) from error


class Transport:
    """Requests to one registry, with the credentials that it wants."""

    def __init__(self, host: str, credentials: Credentials) -> None:
        self.host = host
        scheme = "http" if LOOPBACK.fullmatch(host) else "https"
        self.root = f"{scheme}://{host}"
        self._credentials = credentials
        self._session = requests.Session()
        self._session.mount(f"{scheme}://", requests.adapters.HTTPAdapter(pool_maxsize=8))
        self._authorization: dict[str, str] = {}  # scope -> the header
        self.sent = 0  # bytes of bodies

    def once(self, method: str, url: str, **words: Any) -> requests.Response:
        """One request; signs in where that is asked for, and anew where a token has expired.

        Raises Passing or another of PASSING where it may be tried again, HfdlcError where it may not.
        """
        address = url if url.startswith("http") else self.root + url
        scope = "/".join(url.removeprefix(self.root).split("?")[0].split("/")[2:4])
        answer = self._send(method, address, scope, words)
        for renew in (False, True):
            if answer.status_code != requests.codes.unauthorized or _is_stream(words):
                break
            answer.close()
            self._authorization[scope] = self._sign_in(answer.headers.get("WWW-Authenticate", ""), renew)
            answer = self._send(method, address, scope, words)
        return self._judged(answer, method, address)

    def asked(self, method: str, url: str, **words: Any) -> requests.Response:
        """The same, tried again where that may help."""
        with letters(self.host):
            return retrying()(self.once, method, url, **words)

    def _send(self, method: str, address: str, scope: str, words: Mapping[str, Any]) -> requests.Response:
        headers = dict(words.get("headers") or {})
        if known := self._authorization.get(scope):
            headers["Authorization"] = known
        body = words.get("data")
        answer = self._session.request(method, address, timeout=TIMEOUT, **{**words, "headers": headers})
        self.sent += len(body) if isinstance(body, bytes) else 0
        return answer

    def _judged(self, answer: requests.Response, method: str, address: str) -> requests.Response:
        code = answer.status_code
        if code >= 500 or code in (requests.codes.too_many_requests, requests.codes.request_timeout):
            raise Passing(f"{method} {address}: {code}")
        if code == requests.codes.unauthorized:
            raise HfdlcError(
                "the registry takes no credentials that are known here",
                where=self.host,
                then=f"docker login {self.host}, or for ECR --region and AWS credentials",
            )
        if code == requests.codes.forbidden:
            raise _forbidden(answer, method, self.host)
        return answer

    def _sign_in(self, challenge: str, renew: bool) -> str:
        """The header that a challenge asks for: Basic, or a token that another address gives."""
        pair = self._credentials(renew)
        if not challenge.lower().startswith("bearer"):
            if not pair:
                raise HfdlcError(
                    "the registry asks for credentials, and none are known here",
                    where=self.host,
                    then=f"docker login {self.host}, or for ECR --region and AWS credentials",
                )
            return requests.auth._basic_auth_str(*pair)
        asked = dict(PARAMETER.findall(challenge))
        realm = asked.pop("realm", "")
        answer = self._session.get(realm, params=asked, auth=pair, timeout=TIMEOUT)
        if not answer.ok:
            raise HfdlcError(f"{realm} gives no token: {answer.status_code}", where=self.host)
        told = answer.json()
        return f"Bearer {told.get('token') or told['access_token']}"


def _forbidden(answer: requests.Response, method: str, host: str) -> HfdlcError:
    """Which action on which resource, where the registry tells it."""
    if not (told := ACTION.search(answer.text)):
        return HfdlcError(f"the registry forbids {method} {answer.url}: {answer.text[:300]}", where=host)
    what = f"{told['action']} on {told['resource'] or '*'}"
    return HfdlcError(f"{what} is not allowed", where=host, allowed=what)


def _is_stream(words: Mapping[str, Any]) -> bool:
    """Whether a body can be sent only once."""
    return words.get("data") is not None and not isinstance(words["data"], bytes)
