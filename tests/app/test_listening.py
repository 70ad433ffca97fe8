"""Answers that are listened to while a page goes on: in parts, once, and no longer than anybody wants them."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from nmerge_core.errors import InputError
from nmerge_core.progress import Progress
from nmerge_core.runs.questions import Superseded
from pages.shared.tuning.listening import PART, Left, Listening


def counting(said: Sequence[int], more: int, progress: Progress) -> dict[str, Any]:
    """Say 0, 1, 2, …, 29, and end."""
    tokens = [*said, *range(len(said), min(30, len(said) + more))]
    return {
        "answer": " ".join(map(str, tokens)),
        "tokens": tokens,
        "ended": len(tokens) == 30,
        "asked_after": len(said),
    }


@pytest.mark.parametrize(("length", "tokens"), [(1, 1), (20, 20), (100, 30)])
def test_an_answer_is_heard_in_parts_up_to_its_end_or_length(length: int, tokens: int) -> None:
    heard = Listening(counting, length)
    assert heard.over.wait(10) and heard.settled
    assert heard.found["tokens"] == [*range(tokens)] and heard.found["answer"].split() == [*map(str, range(tokens))]
    assert heard.found["asked_after"] == 0  # facts are those that came first


def test_that_models_were_read_again_in_the_middle_of_an_answer_is_told() -> None:
    def part(said: Sequence[int], more: int, progress: Progress) -> dict[str, Any]:
        return {**counting(said, more, progress), "reread": "Again: why." if len(said) == 1 else ""}

    heard = Listening(part, 30)
    assert heard.over.wait(10) and len(heard.found["tokens"]) == 30 and heard.found["reread"] == "Again: why."


def test_parts_are_as_long_as_they_are_quick() -> None:
    asked: list[int] = []

    def slowly(said: Sequence[int], more: int, progress: Progress) -> dict[str, Any]:
        asked.append(more)
        time.sleep(0.1 * more if len(asked) < 3 else 0)
        return counting(said, more, progress)

    assert Listening(slowly, 100).over.wait(10)
    assert asked[0] == 1 and 2 <= asked[1] <= 5 and asked[-1] <= PART and max(asked) > 5  # of half a second each


def test_what_is_left_takes_nothing_more_and_what_it_superseded_is_asked_again() -> None:
    refused = [Superseded(), Superseded()]

    def again(said: Sequence[int], more: int, progress: Progress) -> dict[str, Any]:
        if refused:
            raise refused.pop()
        return counting(said, more, progress)

    heard = Listening(again, 5)
    assert heard.over.wait(10) and heard.found["tokens"] == [0, 1, 2, 3, 4]

    begun, ended = threading.Event(), threading.Event()

    def endless(said: Sequence[int], more: int, progress: Progress) -> dict[str, Any]:
        begun.set()
        try:
            while True:
                progress("Reading the family", 3, 8, "blocks")
                time.sleep(0.01)
        except Left:
            ended.set()
            raise

    left = Listening(endless, 5)
    assert begun.wait(10) and left.report == ("Reading the family", 3, 8, "blocks") and not ended.wait(0.1)
    left.leave()
    assert ended.wait(10) and left.over.wait(10) and not left.settled and left.error is None


def test_what_cannot_be_said_is_told_and_is_not_the_answer() -> None:
    def refuse(said: Sequence[int], more: int, progress: Progress) -> dict[str, Any]:
        raise InputError("no room")

    heard = Listening(refuse, 5)
    assert heard.over.wait(10) and str(heard.error) == "no room" and not heard.settled
    stands_in = Listening(lambda *asked: {**counting(*asked), "needs": ["a run"]}, 5)
    assert stands_in.over.wait(10) and stands_in.found["tokens"] and not stands_in.settled


def script(asked: list[str], key: str, needs: dict[str, list[str]]) -> None:
    """A page that listens to an answer."""
    import streamlit as st

    from pages.shared.tuning.listening import hear_out, leave_others, listen
    from tests.app.test_listening import counting

    def part(*question):
        asked.append(key)
        return {**counting(*question), **needs, "reread": "Again: why."}

    leave_others([key])
    heard = listen(key, part, 1)
    assert listen(key, part, 1) is heard
    heard.over.wait(10)
    hear_out(key)
    leave_others([key], anew=False)
    assert listen(key, part, 1) is heard
    st.text(heard.found["answer"])
    st.caption(heard.found.get("reread", ""))


@pytest.mark.parametrize(("needs", "times"), [({}, 1), ({"needs": ["a run"]}, 2)])
def test_an_answer_is_remembered_where_it_is_settled(needs: dict[str, Any], times: int) -> None:
    asked: list[str] = []
    app = AppTest.from_function(script, args=(asked, f"{times}", needs)).run()
    assert app.caption[0].value == "Again: why."
    app.run()
    assert app.caption[0].value == ("Again: why." if needs else "")  # told once, of each time that it was asked
    assert not app.exception and [text.value for text in app.text] == ["0"] and asked == [f"{times}"] * times
