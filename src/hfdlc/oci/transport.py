"""HTTP to a registry: authentication and retries."""

import base64
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
# How AWS, and ECR's registry, report a missing permission.
ACTION = re.compile(r"perform:? (?P<action>[\w-]+:\w+)(?: on resource:? (?P<resource>[^\s\"\\]+))?")
LOOPBACK = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?")

# Docker Hub's registry has another name than its images: https://docs.docker.com/reference/api/registry/latest/
ENDPOINTS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}

# Gives a user and a password; called with True if the registry rejected the last ones.
Credentials = Callable[[bool], tuple[str, str] | None]


class Transient(Exception):
    """A failure that may not happen again: the registry is busy, or closed the connection."""


TRANSIENT = (Transient, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


def retrying() -> Retrying:
    """The attempts at one operation, with growing pauses between them."""
    return Retrying(
        retry=retry_if_exception_type(TRANSIENT), stop=stop_after_attempt(ATTEMPTS), wait=WAIT, reraise=True
    )


def as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """The `auth` of a request without a login: otherwise requests sends one of .netrc, if it has the host."""
    return request


@contextmanager
def reporting(host: str) -> Iterator[None]:
    """Raise a transient failure of the last attempt as HfdlcError."""
    try:
        yield
    except TRANSIENT as error:
        raise HfdlcError(
            f"registry request failed after {ATTEMPTS} attempts: {error}",
            location=host,
            hint="run this again when the registry answers: what it has already is not sent again",
        ) from error


class Transport:
    """Requests to one registry, with the credentials that it requires."""

    def __init__(self, host: str, credentials: Credentials, *, plain_http: bool = False) -> None:
        self.host = host
        scheme = "http" if plain_http or LOOPBACK.fullmatch(host) else "https"
        self.root = f"{scheme}://{ENDPOINTS.get(host, host)}"
        self._credentials = credentials
        self._session = requests.Session()
        self._session.auth = as_it_is  # a login of .netrc would replace the header of ours
        # As the programs of Docker do, a registry on this machine is not requested from a proxy.
        self._session.trust_env = not LOOPBACK.fullmatch(host)
        self._session.mount(f"{scheme}://", requests.adapters.HTTPAdapter(pool_maxsize=8))
        self._authorization: dict[str, str] = {}  # scope -> the header

    def once(self, method: str, url: str, **options: Any) -> requests.Response:
        """One request; authenticates if the registry requires it, and again if a token has expired.

        Raises one of TRANSIENT if it may be tried again, HfdlcError if not.
        """
        address = url if url.startswith("http") else self.root + url
        scope = "/".join(url.removeprefix(self.root).split("?")[0].split("/")[2:4])
        response = self._send(method, address, scope, options)
        for renew in (False, True):
            if response.status_code != requests.codes.unauthorized or _is_stream(options):
                break
            response.close()
            challenge = response.headers.get("WWW-Authenticate", "")
            self._authorization[scope] = self._authenticate(challenge, renew)
            response = self._send(method, address, scope, options)
        return self._checked(response, method, address)

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        """The same, with retries."""
        with reporting(self.host):
            return retrying()(self.once, method, url, **options)

    def _send(self, method: str, address: str, scope: str, options: Mapping[str, Any]) -> requests.Response:
        headers = dict(options.get("headers") or {})
        if known := self._authorization.get(scope):
            headers["Authorization"] = known
        try:
            return self._session.request(method, address, timeout=TIMEOUT, **{**options, "headers": headers})
        except requests.exceptions.SSLError as error:
            raise self._no_tls(error) from error

    def _checked(self, response: requests.Response, method: str, address: str) -> requests.Response:
        code = response.status_code
        if code >= 500 or code in (requests.codes.too_many_requests, requests.codes.request_timeout):
            raise Transient(f"{method} {address}: {code}")
        if code == requests.codes.unauthorized:
            raise self._rejected("the registry rejected the configured credentials")
        if code == requests.codes.forbidden:
            raise _forbidden(response, method, self.host)
        return response

    def _authenticate(self, challenge: str, renew: bool) -> str:
        """The Authorization header for a challenge: Basic, or a token that its realm gives."""
        pair = self._credentials(renew)
        if not challenge.lower().startswith("bearer"):
            if not pair:
                raise self._rejected("the registry requires credentials, and none are configured")
            return "Basic " + base64.b64encode(":".join(pair).encode()).decode()
        parameters = dict(PARAMETER.findall(challenge))
        realm = parameters.pop("realm", "")
        response = self._session.get(realm, params=parameters, auth=pair, timeout=TIMEOUT)
        if not response.ok:
            raise self._rejected(f"{realm} gives no token: {response.status_code}")
        found = response.json()
        return f"Bearer {found.get('token') or found['access_token']}"

    def _no_tls(self, error: requests.exceptions.SSLError) -> HfdlcError:
        if "WRONG_VERSION_NUMBER" in str(error) or "record layer failure" in str(error):
            return HfdlcError(
                "this registry answers with http, not https",
                location=self.host,
                hint="add --plain-http if it may be used without encryption",
            )
        return HfdlcError(
            f"the certificate of this registry is not valid: {error}",
            location=self.host,
            hint="set REQUESTS_CA_BUNDLE to a file with the certificate of its authority",
        )

    def _rejected(self, why: str) -> HfdlcError:
        return HfdlcError(
            f"authentication failed: {why}",
            location=self.host,
            hint=f"docker login {self.host}; `hfdlc publish --region` signs in to ECR with AWS credentials",
        )


def _forbidden(response: requests.Response, method: str, host: str) -> HfdlcError:
    """The error names the action and the resource if the registry does."""
    if not (found := ACTION.search(response.text)):
        return HfdlcError(
            f"the registry forbids {method} {response.url}: {response.text[:300]}", location=host
        )
    what = f"{found['action']} on {found['resource'] or '*'}"
    return HfdlcError(f"{what} is not allowed", location=host, allowed=what)


def _is_stream(options: Mapping[str, Any]) -> bool:
    """Whether the body can be sent only once."""
    return options.get("data") is not None and not isinstance(options["data"], bytes)
