"""The door of the app's server: which hosts and origins it answers, and what a page may fetch."""

import re
from base64 import b64encode
from collections.abc import Sequence
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import streamlit
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config

_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_REFUSED = 1008  # a WebSocket's close for a violation of policy


class Door:
    """Refuses a request for another host or from another origin, and tells browsers to fetch nothing foreign."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str], origins: Sequence[str]) -> None:
        """Stand before `app`, which is reached as `hosts` (`*.` for any below one), also from pages of `origins`."""
        self._app, self._hosts, self._origins = app, [host.lower() for host in hosts], origins
        self._headers = {
            "Content-Security-Policy": policy(origins),
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it in a sentence that says which setting lets it in."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif not (refusal := self._refusal(Headers(scope=scope))):
            await self._app(scope, receive, self._guarded(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _REFUSED, "reason": refusal})
        else:
            await PlainTextResponse(f"{refusal}\n", 403)(scope, receive, self._guarded(send))

    def _refusal(self, headers: Headers) -> str:
        """Say why a request is not answered; nothing where it is."""
        host, origin = headers.get("Host", ""), headers.get("Origin")
        name = hostname(f"//{host}")
        if not any(fnmatchcase(name, allowed) for allowed in self._hosts):
            return "The app has another name. STREAMLIT_SERVER_ALLOWED_HOSTS says by which ones it is reached."
        if origin is not None and origin.partition("://")[2] != host and origin not in self._origins:
            return "The app is for its own pages. STREAMLIT_SERVER_CORS_ALLOWED_ORIGINS says which others may ask it."
        return ""

    def _guarded(self, send: Send) -> Send:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        return guarded


def hostname(address: str) -> str:
    """Return the host of an address in small letters; empty where it names none."""
    try:
        return (urlsplit(address).hostname or "").rstrip(".")
    except ValueError:  # brackets that do not close
        return ""


def policy(origins: Sequence[str]) -> str:
    """Return the content security policy of a page, which pages of `origins` may frame.

    Streamlit's page styles itself inline and has a script inline, which is allowed by what it is; components and the
    pictures that figures are saved as are made by the page itself (`blob:`, `data:`).
    """
    page = Path(streamlit.__file__).with_name("static") / "index.html"
    inline = [b64encode(sha256(script).digest()).decode() for script in _SCRIPT.findall(page.read_bytes())]
    directives = {
        "default-src": ["'self'"],
        "script-src": ["'self'", "'wasm-unsafe-eval'", "blob:", *(f"'sha256-{digest}'" for digest in inline)],
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "blob:", "data:"],
        "font-src": ["'self'", "data:"],
        "object-src": ["'none'"],
        "base-uri": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'self'", *origins],
    }
    return "; ".join(" ".join([name, *sources]) for name, sources in directives.items())


def configured() -> dict[str, Sequence[str]]:
    """Return the names and the other origins of the app, as Streamlit's settings have them."""
    return {
        "hosts": config.get_option("server.allowedHosts"),
        "origins": config.get_option("server.corsAllowedOrigins"),
    }
