"""Questions to the worker that are under way while the page is drawn, and the answers that are remembered."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from nmerge_core.figures import style
from nmerge_core.progress import Progress
from pages.shared.text import verbatim

Answer = dict[str, Any]
UNDER_WAY = "pending"  # the key of this visitor's question under way, and of what it is
REMEMBERED = 1024  # answers
LOOK, PATIENCE = 0.1, 2.0  # seconds between looks whether an answer is there, and until it is told how far it is


class Left(Exception):
    """Nobody waits for the answer any more."""


class Pending:
    """A question under way, in a thread of its own."""

    def __init__(self, ask: Callable[[Progress], Answer]) -> None:
        """Begin to ask."""
        self._there, self._left = threading.Event(), False
        self._answer: Answer | None = None
        self._error: Exception | None = None
        self._report: tuple[str, float, float, str] | None = None
        threading.Thread(target=self._run, args=(ask,), daemon=True).start()

    def _run(self, ask: Callable[[Progress], Answer]) -> None:
        try:
            self._answer = ask(self._heard)
        except Exception as error:  # for whoever waits
            self._error = error
        self._there.set()

    def _heard(self, stage: str, done: float, total: float, unit: str = "") -> None:
        if self._left:
            raise Left
        self._report = stage, done, total, unit

    def leave(self) -> None:
        """Wait for it no more: the worker leaves it too."""
        self._left = True

    def wait(self, place: DeltaGenerator, on_cancel: Callable[[], None]) -> Answer:
        """Return the answer once it is there; what takes long is told at a place, with a button that leaves it.

        Raises:
            Exception: What asking raised.
        """
        began, bar = time.monotonic(), None
        while not self._there.wait(LOOK):
            st.session_state.get(UNDER_WAY)  # where Streamlit ends a page that is to be drawn anew
            if self._report is None or time.monotonic() - began < PATIENCE:
                continue
            if bar is None:
                row = place.container(horizontal=True, vertical_alignment="center")
                bar = row.progress(0.0, width="stretch")
                row.button("Cancel", key="pending_cancel", icon=":material/close:", on_click=self._cancel(on_cancel))
            stage, done, total, unit = self._report
            share = min(1.0, done / total) if total else 0.0
            far = f" · {style.count(done)} of {style.count(total)} {unit}".rstrip() if total else ""
            bar.progress(share, text=f"{verbatim(stage)}{far}")
        place.empty()
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer

    def _cancel(self, then: Callable[[], None]) -> Callable[[], None]:
        def cancelled() -> None:
            self.leave()
            then()

        return cancelled


@st.cache_resource(show_spinner=False)
def _remembered() -> OrderedDict[str, Answer]:
    return OrderedDict()


def begin_to_ask(key: str, ask: Callable[[Progress], Answer]) -> None:
    """Have a question asked, unless its answer is remembered or it is under way; `key` says which it is."""
    under_way = st.session_state.get(UNDER_WAY)
    if key not in _remembered() and (under_way is None or under_way[0] != key):
        st.session_state[UNDER_WAY] = key, Pending(ask)


def answer_to(
    key: str,
    ask: Callable[[Progress], Answer],
    place: DeltaGenerator,
    on_cancel: Callable[[], None],
    settled: Callable[[Answer], bool],
) -> Answer:
    """Return the answer to a question: what is remembered, or what it is once it is there.

    Args:
        key: Which question it is, the content of all that its answer depends on included.
        ask: Asks it.
        place: Where it is told how far it is.
        on_cancel: Called where one waits no more.
        settled: Whether an answer is to be remembered.

    Raises:
        Exception: What asking raised.
    """
    remembered = _remembered()
    if key in remembered:
        return remembered[key]
    begin_to_ask(key, ask)
    try:  # a page that is drawn anew meanwhile finds it under way
        found = st.session_state[UNDER_WAY][1].wait(place, on_cancel)
    except Exception:
        st.session_state.pop(UNDER_WAY, None)
        raise
    st.session_state.pop(UNDER_WAY, None)
    if settled(found):
        remembered[key] = found
        while len(remembered) > REMEMBERED:
            remembered.popitem(last=False)
    return found
