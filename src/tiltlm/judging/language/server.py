"""A model behind an OpenAI-compatible server: one request with its attempts, limits and cost.

The key comes from an environment variable and is taken out of every message. Only what may pass is asked again: 408,
409, 429, 5xx and time-outs. 401, 402, 403 and 404 stop the call at once: more requests would not mend them.
"""

import json
import os
import re
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tiltlm.core.errors import ConfigError, RunError
from tiltlm.distributed.position import HERE
from tiltlm.judging.language.limits import LONGEST_ORDERED, Breaker, Bucket, Clock, retry_after, wait_before
from tiltlm.storage.versions import is_installed

AGAIN = frozenset({408, 409, 429})
STOPS = frozenset({401, 402, 403, 404})
MAX_REPLY = 4_000_000
"""Bytes of the longest reply that is read."""
CHARACTERS = 4
"""Characters of one token, before the server says how many there were."""
CHAT, DECISIONS = "/chat/completions", "/decisions"
"""Routes. A 404 means that the model is missing at the first, and that the route is missing at the second."""
NOT_IMPLEMENTED = 501
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Rejected(Exception):
    """The server does not accept this request (400, 405, 422 and such)."""


class Failed(Exception):
    """There is no usable reply to this request; the message says why."""


@dataclass(frozen=True)
class Received:
    """A reply of the server."""

    body: Mapping[str, Any]
    attempt: int
    latency: float


@dataclass(frozen=True)
class ServerSettings:
    """Where a server is, and how it may be used."""

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    """Seconds of one attempt, until the whole reply is there."""
    attempts: int = 6
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


class Server:
    """A connection to a server; several threads may use it."""

    def __init__(self, settings: ServerSettings, clock: Clock | None = None) -> None:
        """Prepare the connection. Nothing is sent yet.

        Raises:
            ConfigError: The package openai is missing, the address is none, or there is no key.
        """
        if not is_installed("openai"):
            raise ConfigError(
                "judge.url needs the package openai: pip install 'tiltlm[judge]'",
                code="missing_package",
                key="judge.url",
            )
        self.settings = settings
        self._clock = clock or Clock()
        self._key = self._find_key()
        self._breaker = Breaker()
        self._stopped = threading.Event()
        self._requests = Bucket(settings.requests_per_minute, self._clock)
        self._tokens = Bucket(settings.tokens_per_minute, self._clock)
        import openai

        self._client = openai.OpenAI(api_key=self._key, base_url=settings.url, max_retries=0, timeout=settings.timeout)
        weakref.finalize(self, self._client.close)  # the garbage collector may drop its sockets before itself

    def _find_key(self) -> str:
        parts = urlsplit(self.settings.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ConfigError(
                "judge.url must be an address such as http://127.0.0.1:8000/v1, without a name, a password or a query",
                code="wrong_type",
                key="judge.url",
            )
        key = os.environ.get(self.settings.key_variable, "").strip()
        if not key and parts.hostname not in LOOPBACK:
            raise ConfigError(
                f"the environment variable {self.settings.key_variable} is empty, and {parts.hostname} wants a key; "
                "set it, or name another variable in judge.key_variable",
                code="no_key",
                key="judge.key_variable",
            )
        return key or "none"

    def post(self, route: str, body: Mapping[str, Any], tokens: int) -> Received:
        """Send one request, as often as it takes.

        Args:
            route: Route below the address.
            body: Its content, without the model.
            tokens: Tokens that the model may write, for the bucket of tokens.

        Raises:
            Rejected: The server does not accept it.
            Failed: No attempt gave a usable reply.
            RunError: Asking on makes no sense: the key is refused, money has run out, the server is down.
        """
        text = json.dumps(body)
        estimate = len(text) // CHARACTERS + tokens
        problem = ""
        for attempt in range(1, self.settings.attempts + 1):
            HERE.tick()
            self._requests.take(1)
            self._tokens.take(estimate)
            self._check_stopped()
            began = self._clock.now()
            try:
                found = self._once(route, body)
            except _TryAgain as error:
                problem = str(error)
                if error.after is not None and error.after > LONGEST_ORDERED:
                    raise self._stop(f"{problem}, and wants a wait of {error.after:.0f} s", "server_busy") from None
                if attempt < self.settings.attempts:
                    self._clock.sleep(wait_before(attempt, error.after, self._clock))
                continue
            self._breaker.record(True)
            self._tokens.correct(_used(found, estimate) - estimate)
            return Received(found, attempt, self._clock.now() - began)
        if self._breaker.record(False):
            raise self._stop(f"{self._breaker.limit} requests in a row failed, the last one: {problem}", "server_down")
        raise Failed(f"{problem} ({self.settings.attempts} attempts)")

    def _once(self, route: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send one request once."""
        status, header, content = self._exchange(route, body)
        if status in AGAIN or (status >= 500 and status != NOT_IMPLEMENTED):
            raise _TryAgain(f"status {status}: {self._excerpt(content)}", retry_after(header, self._clock))
        if status in STOPS and not (status == 404 and route != CHAT):
            raise self._stop(f"status {status}: {self._excerpt(content)}", "server_refused")
        if not 200 <= status < 300:
            raise Rejected(f"status {status}: {self._excerpt(content)}")
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            raise Failed(f"the reply is not JSON: {self._excerpt(content)}") from None
        if not isinstance(found, Mapping):
            raise Failed(f"the reply is no JSON object: {self._excerpt(content)}")
        return found

    def _exchange(self, route: str, body: Mapping[str, Any]) -> tuple[int, str | None, bytes]:
        """Return status, `Retry-After` and content of a reply; reading stops at the size limit and the time limit."""
        import openai

        deadline = time.monotonic() + self.settings.timeout
        if route == CHAT:
            place: Any = self._client.chat.completions
        elif hasattr(self._client, "decisions"):
            place = self._client.decisions
        else:
            raise Rejected("this version of the package openai has no decisions")
        try:
            with place.with_streaming_response.create(model=self.settings.model, **body) as response:
                return response.status_code, None, self._read(response, deadline)
        except openai.APIStatusError as error:
            return error.status_code, error.response.headers.get("retry-after"), error.response.content
        except openai.APITimeoutError:
            raise _TryAgain(f"no reply within {self.settings.timeout:g} s") from None
        except openai.APIConnectionError as error:
            raise _TryAgain(f"no connection: {self.redact(str(error.__cause__ or error))}") from None

    def _read(self, response: Any, deadline: float) -> bytes:
        chunks, size = [], 0
        try:
            for chunk in response.iter_bytes():
                chunks.append(chunk)
                size += len(chunk)
                if size > MAX_REPLY:
                    raise Failed(f"the reply is longer than {MAX_REPLY:,} bytes")
                if time.monotonic() > deadline:
                    raise _TryAgain(f"no whole reply within {self.settings.timeout:g} s")
        except Exception as error:
            if not type(error).__module__.startswith("httpx"):  # openai passes on errors of the package beneath it
                raise
            raise _TryAgain(f"the reply broke off: {type(error).__name__}") from None
        return b"".join(chunks)

    def _stop(self, problem: str, code: str) -> RunError:
        self._stopped.set()
        return RunError(
            f"{self.settings.model} at {self.settings.url}: {problem}. What was judged is kept: run the same command "
            "again to go on",
            code=code,
            key="judge.url",
        )

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise Failed("another request has stopped the judge")

    def redact(self, text: str) -> str:
        """Return a text without the key, and without anything that looks like one."""
        if len(self._key) > 4:
            text = text.replace(self._key, "***")
        return re.sub(r"(?i)(bearer\s+|\bsk-)[\w.\-]+", r"\1***", text)

    def _excerpt(self, content: bytes) -> str:
        text = " ".join(self.redact(content[:2000].decode("utf-8", "replace")).split())
        return text[:300] or "no content"


class _TryAgain(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, problem: str, after: float | None = None) -> None:
        super().__init__(problem)
        self.after = after


def usage_of(body: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the tokens that went in and came out; None if the server does not say."""
    usage = body.get("usage")
    if not isinstance(usage, Mapping):
        return None
    counts = [
        usage[name]
        for name in ("prompt_tokens", "input_tokens", "completion_tokens", "output_tokens")
        if isinstance(usage.get(name), int)
    ]
    return (counts[0], counts[1]) if len(counts) == 2 else None


def _used(body: Mapping[str, Any], estimate: int) -> int:
    usage = usage_of(body)
    return estimate if usage is None else sum(usage)
