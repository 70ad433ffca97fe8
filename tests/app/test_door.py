"""The door of the app's server: who is answered, and what a page is told to fetch."""

import asyncio
from typing import Any

import pytest

from pages.shared.frame.door import Door, policy

HOSTS, ORIGINS = ["127.0.0.1", "nmerge.example.org", "*.lab.example"], ["https://portal.example"]


def asked(kind: str, **headers: str) -> list[dict[str, Any]]:
    """What a request of a kind is answered, by an app behind the door that answers all with 200."""
    sent: list[dict[str, Any]] = []

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []} if kind == "http" else {"type": "in"})

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(Door(inside, HOSTS, ORIGINS)({"type": kind, "headers": raw}, None, send))
    return sent


def let_in(kind: str, **headers: str) -> bool:
    first = asked(kind, **headers)[0]
    return first["type"] == "in" or first.get("status") == 200


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("host", "origin", "answered"),
    [
        ("127.0.0.1:8501", None, True),
        ("127.0.0.1:8501", "http://127.0.0.1:8501", True),
        ("NMerge.Example.Org", "https://NMerge.Example.Org", True),
        ("gpu.lab.example", None, True),
        ("127.0.0.1:8501", "https://portal.example", True),
        ("evil.example", None, False),
        ("evil.example:8501", "http://evil.example:8501", False),  # a name of a stranger's that leads here
        ("lab.example.evil", None, False),
        ("127.0.0.1@evil.example", None, False),
        ("[::", None, False),
        ("", None, False),
        ("127.0.0.1:8501", "http://127.0.0.1:3000", False),  # another program of this machine
        ("127.0.0.1:8501", "http://localhost:8501", False),
        ("127.0.0.1:8501", "https://evil.example", False),
        ("127.0.0.1:8501", "null", False),
    ],
)
def test_only_the_app_s_own_names_and_origins_and_those_configured_are_answered(
    kind: str, host: str, origin: str | None, answered: bool
) -> None:
    assert let_in(kind, host=host, **({"origin": origin} if origin else {})) == answered


def test_a_refusal_says_which_setting_lets_in_and_names_nothing_that_was_sent() -> None:
    start, body = asked("http", host="evil.example")
    assert start["status"] == 403
    assert b"STREAMLIT_SERVER_ALLOWED_HOSTS" in body["body"] and b"evil" not in body["body"]
    (closed,) = asked("websocket", host="127.0.0.1", origin="https://evil.example")
    assert closed["type"] == "websocket.close" and "CORS_ALLOWED_ORIGINS" in closed["reason"]


def test_every_answer_has_the_policy() -> None:
    for host in ("127.0.0.1", "evil.example"):
        headers = dict(asked("http", host=host)[0]["headers"])
        assert headers[b"content-security-policy"].decode() == policy(ORIGINS)
    told = {name: sources for name, *sources in map(str.split, policy(ORIGINS).split(";"))}
    assert told["default-src"] == ["'self'"] and told["frame-ancestors"] == ["'self'", "https://portal.example"]
    assert not {"'unsafe-inline'", "'unsafe-eval'", "https:", "*"} & {*told["script-src"]}
