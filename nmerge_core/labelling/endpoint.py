"""Asking an OpenAI-compatible endpoint, by the standard library alone: one kind of request needs no client of its own.

`POST URL/chat/completions` with model, messages, temperature 0 and the longest answer, as vLLM, llama.cpp, Ollama,
OpenAI and those like it take it. What is busy or gone for a moment is asked again, later each time or when it says.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nmerge_core.errors import InputError, short
from nmerge_core.labelling.parameter import Endpoint
from nmerge_core.labelling.reply import Heed, Reply

TIMEOUT = 120.0  # seconds until an answer begins, or goes on
TRIES = 6
WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before the second try, twice as many before each further one
_BUSY = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_LARGEST = 4 << 20  # bytes of an answer


@dataclass(frozen=True)
class Served:
    """A model that an endpoint serves; without a `key` none is sent."""

    endpoint: Endpoint
    key: str | None = field(repr=False)
    longest: int  # tokens of an answer
    sleep: Callable[[float], None] = time.sleep

    def check(self, prompt: str) -> None:
        """See `Labeller`: how much it reads is not known here, and it says so itself."""

    def ask(self, prompt: str, heed: Heed) -> Reply:
        """See `Labeller`.

        Raises:
            InputError: it cannot be reached, refuses the request, stays busy, or answers something else.
        """
        wait = WAIT
        for left in reversed(range(TRIES)):
            try:
                return self._once(prompt)
            except _Again as again:
                if not left:
                    raise InputError(f"{self.endpoint.url}: {again}, {TRIES} times; try again later") from None
                self._wait(min(LONGEST_WAIT, again.after or wait), heed)
                wait *= 2
        raise AssertionError

    def _once(self, prompt: str) -> Reply:
        content = {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.longest,
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        url = f"{self.endpoint.url}/chat/completions"
        request = urllib.request.Request(url, json.dumps(content).encode(), headers)
        try:
            with _OPENER.open(request, timeout=TIMEOUT) as response:
                body = response.read(_LARGEST)
                if response.length and len(body) < _LARGEST:
                    raise _Again(f"an answer that broke off, {response.length:,} bytes before its end")
                return self._read(body)
        except urllib.error.HTTPError as error:
            with error:
                said = f"status {error.code}, {short(self._without_key(_reason(error)))}"
                if error.code in _BUSY:
                    raise _Again(said, _seconds(error.headers.get("Retry-After"))) from None
            raise InputError(f"{url}: refused the request for {self.endpoint.model} ({said})") from None
        except (OSError, http.client.HTTPException) as error:  # a URLError, which is an OSError, has a reason
            raise _Again(f"no answer ({short(str(getattr(error, 'reason', error)) or type(error).__name__)})") from None

    def _read(self, body: bytes) -> Reply:
        try:
            content = json.loads(body)
            text = content["choices"][0]["message"]["content"]
            used = content.get("usage") or {}
            counts = [int(used.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
            text = str(text or "").encode(errors="replace").decode()  # JSON may hold half a pair
            return Reply(self._without_key(text), *counts)
        except (ValueError, OverflowError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{self.endpoint.url}: expected a chat completion in JSON, found "
                f"{short(self._without_key(_text(body)))!r}; name the address that ends before /chat/completions"
            ) from None

    def _without_key(self, said: str) -> str:
        """Return what a server says without the key, which some repeat where they refuse it: all of it is kept."""
        return said.replace(self.key, "…") if self.key else said

    def _wait(self, seconds: float, heed: Heed) -> None:
        while seconds > 0:
            heed()
            self.sleep(min(1.0, seconds))
            seconds -= 1.0


class _Again(Exception):
    """There was no answer, but there may be one `after` so many seconds, or later."""

    def __init__(self, said: str, after: float = 0.0) -> None:
        super().__init__(said)
        self.after = after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows none: texts and key go to the address that was named, and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _reason(error: urllib.error.HTTPError) -> str:
    """Return what a server says is wrong, of a redirect where it leads."""
    if 300 <= error.code < 400:
        return f"it leads to {short(str(error.headers.get('Location')))}: name that address"
    try:
        body = error.read(_LARGEST)
    except (OSError, http.client.HTTPException):
        return str(error.reason)
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return _text(body) or str(error.reason)


def _seconds(value: str | None) -> float:
    return float(value) if value and value.isascii() and value.isdigit() else 0.0


def _text(body: bytes) -> str:
    return " ".join(body[:1000].decode(errors="replace").split())
