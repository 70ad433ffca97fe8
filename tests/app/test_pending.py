"""A question under way: what is told of it, who gets its answer, and who has left."""

import threading
import time
from typing import Any

import pytest
from streamlit.delta_generator import DeltaGenerator
from streamlit.testing.v1 import AppTest

from nmerge_core.progress import Progress
from pages.shared import pending
from pages.shared.pending import Left, Pending


def script(asked: list[str], key: str) -> None:
    """A page that asks a question ahead, is drawn, and shows its answer."""
    import time

    import streamlit as st

    from pages.shared.pending import answer_to, begin_to_ask

    def ask(progress):  # type: ignore[no-untyped-def]
        asked.append(key)
        progress("Reading the family", 3, 8, "blocks")
        time.sleep(0.3)
        return {"answer": f"an answer to {key}"}

    begin_to_ask(key, ask)
    st.text("the controls")
    found = answer_to(key, ask, st.empty(), lambda: None, lambda found: key != "unsettled")
    st.text(found["answer"])


@pytest.mark.parametrize(("key", "times"), [("settled", 1), ("unsettled", 2)])
def test_a_question_is_asked_ahead_once_and_its_answer_remembered_where_it_is_settled(
    key: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "PATIENCE", 0.0)
    monkeypatch.setattr(pending, "LOOK", 0.05)
    asked: list[str] = []
    bars: list[tuple[float, str | None]] = []
    draw = DeltaGenerator.progress

    def progress(place: DeltaGenerator, value: float, text: str | None = None, **rest: Any) -> DeltaGenerator:
        bars.append((value, text))
        return draw(place, value, text, **rest)

    monkeypatch.setattr(DeltaGenerator, "progress", progress)
    app = AppTest.from_function(script, args=(asked, key)).run()
    app.run()
    assert not app.exception and [text.value for text in app.text] == ["the controls", f"an answer to {key}"]
    assert asked == [key] * times
    assert (0.0, None) in bars and (3 / 8, "Reading the family · 3 of 8 blocks") in bars
    assert not app.button  # nor is the one that cancels left


def test_who_has_left_is_told_of_nothing_any_more() -> None:
    ended, begun = threading.Event(), threading.Event()

    def ask(progress: Progress) -> dict[str, Any]:
        begun.set()
        try:
            while True:
                progress("Reading the family", 3, 8, "blocks")
                time.sleep(0.01)
        except Left:
            ended.set()
            raise

    under_way = Pending(ask)
    assert begun.wait(10) and not ended.wait(0.1)
    under_way.leave()
    assert ended.wait(10)
