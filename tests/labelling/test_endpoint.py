"""Asking an endpoint that works, is busy, refuses, leads elsewhere, or is not there; on a real socket."""

import pytest

from nmerge_core.errors import Cancelled, InputError
from nmerge_core.labelling.endpoint import TRIES, Served
from nmerge_core.labelling.parameter import BY, KEY_FROM, endpoint_of, key_in
from nmerge_core.labelling.reply import Reply
from tests.chat import Status, serve_chat

KEY = "sk-not-to-be-seen"


def nothing() -> None:
    """Heed nothing."""


def served(address: str, key: str | None = None, slept: list[float] | None = None) -> Served:
    endpoint = endpoint_of(f"a-model@{address}")
    assert endpoint is not None
    return Served(endpoint, key, 7, ([] if slept is None else slept).append)


def test_a_request_is_as_the_protocol_has_it() -> None:
    with serve_chat(lambda prompt: f"you said {prompt}") as chat:
        chat.key = KEY
        reply = served(chat.address, KEY).ask("four words «é» here", nothing)
        assert reply == Reply("you said four words «é» here", 4, 6)
        path, key, content = chat.requests[0]
        assert path == "/v1/chat/completions" and key == f"Bearer {KEY}"
        assert content == {
            "model": "a-model",
            "messages": [{"role": "user", "content": "four words «é» here"}],
            "temperature": 0,
            "max_tokens": 7,
        }
        with pytest.raises(InputError, match=r"refused the request for a-model \(status 401, refused with 401\)"):
            served(chat.address).ask("x", nothing)
        assert chat.requests[1][1] == ""  # without a key none is sent
    assert KEY not in repr(served(chat.address, KEY))


def test_what_is_busy_is_asked_again_when_it_says_or_later_each_time() -> None:
    with serve_chat(lambda prompt: "there") as chat:
        statuses: list[Status] = [503, (429, {"Retry-After": "3"}), 500, 200]
        chat.refuse = lambda number: statuses[number - 1]
        slept: list[float] = []
        assert served(chat.address, slept=slept).ask("x", nothing).text == "there"
        assert slept == [1.0, *[1.0] * 3, *[1.0] * 4] and len(chat.requests) == 4  # 1 s, the 3 s it asked for, 4 s
        chat.refuse = lambda number: 503
        with pytest.raises(InputError, match=rf"/v1: status 503, refused with 503, {TRIES} times; try again later"):
            served(chat.address).ask("x", nothing)

        def cancel() -> None:
            raise Cancelled

        before = len(chat.requests)
        with pytest.raises(Cancelled):
            served(chat.address).ask("x", cancel)
        assert len(chat.requests) == before + 1


def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    with serve_chat(lambda prompt: "there") as chat:
        chat.refuse = lambda number: (200, {"Content-Length": "500"} if number == 1 else {})
        slept: list[float] = []
        assert served(chat.address, slept=slept).ask("x", nothing).text == "there"
        assert slept == [1.0] and len(chat.requests) == 2
        chat.refuse = lambda number: (200, {"Content-Length": "500"})
        with pytest.raises(InputError, match=rf"an answer that broke off, \d+ bytes before its end, {TRIES} times"):
            served(chat.address).ask("x", nothing)


def test_no_redirect_is_followed() -> None:
    with serve_chat(lambda prompt: "") as chat, serve_chat(lambda prompt: "stolen") as other:
        chat.refuse = lambda number: (307, {"Location": other.address})
        with pytest.raises(InputError, match=f"it leads to {other.address}: name that address"):
            served(chat.address, KEY).ask("x", nothing)
        assert not other.requests


def test_other_answers_and_nobody_there_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_chat(lambda prompt: "\ud800 half a pair") as chat:
        assert served(chat.address).ask("x", nothing).text == "? half a pair"
    with pytest.raises(InputError, match=rf"no answer \(.*refused.*\), {TRIES} times"):
        served(chat.address).ask("x", nothing)
    for body in (b"<html>", b"{}", b'{"choices": []}', b"[1]", b'{"choices": [{"message": 3}]}'):
        with pytest.raises(InputError, match="expected a chat completion in JSON, found"):
            served(chat.address)._read(body)
    assert served(chat.address)._read(b'{"choices": [{"message": {"content": null}}]}') == Reply("", 0, 0)
    with pytest.raises(InputError, match="expected a chat completion in JSON, found"):
        served(chat.address)._read(b'{"choices": [{"message": {"content": ""}}], "usage": {"prompt_tokens": 1e999}}')


def test_a_key_that_the_server_repeats_is_not_told_of() -> None:
    """What is refused becomes the error of a run, and answers its results: both are kept."""
    with serve_chat(lambda prompt: f"your key is {KEY}") as chat:
        assert served(chat.address, KEY).ask("x", nothing).text == "your key is …"
        chat.says = f"no such key: {KEY}"
        chat.refuse = lambda number: 401
        with pytest.raises(InputError, match="status 401, no such key: …"):
            served(chat.address, KEY).ask("x", nothing)
    with pytest.raises(InputError, match="found 'key …'"):
        served(chat.address, KEY)._read(f"key {KEY}".encode())


@pytest.mark.parametrize("address", ["https://user:word@host/v1", "https://host/v1?key=1", "http:///v1"])
def test_an_address_with_a_secret_in_it_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="expected an address such as https://host/v1, without user, key or query"):
        BY.check(f"model@{address}", "label, by")


def test_keys_are_taken_from_variables_for_keys_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", KEY)
    monkeypatch.setenv("EMPTY_API_KEY", "")
    monkeypatch.setenv("ODD_API_KEY", "a\nb")
    assert key_in(KEY_FROM.check("MY_API_KEY", "label, key_from")) == KEY and key_in(None) is None
    for name in ("AWS_SECRET_ACCESS_KEY", "HOME", "_API_KEY=x", 3):
        with pytest.raises(InputError, match="expected the name of an environment variable that ends in _API_KEY"):
            KEY_FROM.check(name, "label, key_from")
    with pytest.raises(InputError, match="in the environment variable EMPTY_API_KEY, found none"):
        key_in("EMPTY_API_KEY")
    with pytest.raises(InputError, match="ODD_API_KEY, found characters that no key has"):
        key_in("ODD_API_KEY")
