"""Answers that come while the page goes on: heard by threads of their own, and remembered where they are settled."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from nmerge_core.progress import Progress
from nmerge_core.runs.questions import Superseded

Part = Callable[[Sequence[int], int, Progress], dict[str, Any]]  # what comes after the tokens said, at most so many
UNDER_WAY = "listening"  # the key of what this visitor listens to, by which answer it is
REMEMBERED = 1024  # answers
PART, PACE = 16, 0.5  # tokens that an answer grows by at most, and seconds that a part should take


class Left(Exception):
    """Nobody listens any more."""


class Listening:
    """An answer that is being said.

    Attributes:
        found: The facts that came with its first part ("reread" with any), and the "answer", its "tokens" and whether
            it has "ended" so far; without an answer where something is needed first.
        report: What the worker is at, how much of it is done and of how much, and the unit.
        error: What asking raised.
        over: Set when there will be no more.
    """

    def __init__(self, part: Part, length: int) -> None:
        """Begin to listen, to at most `length` tokens."""
        self.found: dict[str, Any] = {}
        self.report: tuple[str, float, float, str] | None = None
        self.error: Exception | None = None
        self.over, self.began = threading.Event(), time.monotonic()
        self._part, self._length, self._left = part, length, False
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def settled(self) -> bool:
        """Whether it is the answer, and not what stands in for it until something is measured."""
        return self.over.is_set() and self.error is None and "answer" in self.found and "needs" not in self.found

    def leave(self) -> None:
        """Listen no more: the worker leaves it too."""
        self._left = True

    def _listen(self) -> None:
        try:
            more = 1  # so that it is seen as early as can be that it comes, and what
            while not self._left and more:
                more = self._hear(more)
        except Left:
            pass
        except Exception as error:  # for whoever looks
            self.error = error
        self.over.set()

    def _hear(self, more: int) -> int:
        """Hear a part of `more` tokens, and return of how many the next is."""
        began, said = time.monotonic(), self.found.get("tokens", [])
        try:
            part = self._part(said, more, self._heard)
        except Superseded:  # by what this visitor has left
            return more
        said_now: dict[str, Any] = {name: part[name] for name in ("answer", "tokens", "ended") if name in part}
        said_now |= {"reread": part["reread"]} if part.get("reread") else {}  # also in the middle of an answer
        self.report, self.found = None, {**part, **self.found, **said_now}
        if "answer" not in part or part["ended"]:
            return 0
        pace = (len(part["tokens"]) - len(said)) / max(time.monotonic() - began, 1e-3)  # tokens a second
        return min(PART, self._length - len(part["tokens"]), max(1, int(PACE * pace)))

    def _heard(self, stage: str, done: float, total: float, unit: str = "") -> None:
        if self._left:
            raise Left
        self.report = stage, done, total, unit


@st.cache_resource(show_spinner=False)
def _remembered() -> OrderedDict[str, Listening]:
    return OrderedDict()


def listen(key: str, part: Part, length: int) -> Listening:
    """Listen to an answer, or find it where it is remembered or under way.

    Args:
        key: Which answer it is, the content of all that it depends on included.
        part: Asks for a part of it.
        length: Tokens at most.
    """
    remembered = _remembered()
    if key in remembered:
        return remembered[key]
    under_way = _under_way()
    if key not in under_way:
        under_way[key] = Listening(part, length)
    return under_way[key]


def hear_out(key: str) -> None:
    """Remember what was listened to until it was over, if it is settled; else `leave_others` has it asked anew."""
    heard = _under_way().get(key)
    if heard is not None and heard.settled:
        del _under_way()[key]
        remembered = _remembered()
        remembered[key] = heard
        while len(remembered) > REMEMBERED:
            remembered.popitem(last=False)


def leave_others(keys: Sequence[str], *, anew: bool = True) -> None:
    """Listen to nothing but these, and `anew` to those that were over and not settled, such as a failure.

    Why models were read again for those that are remembered has been told by then.
    """
    under_way, remembered = _under_way(), _remembered()
    for key in keys if anew else ():
        if key in remembered:
            remembered[key].found.pop("reread", None)
    for key, heard in [*under_way.items()]:
        if key not in keys or (anew and heard.over.is_set() and not heard.settled):
            under_way.pop(key).leave()


def _under_way() -> dict[str, Listening]:
    found: dict[str, Listening] = st.session_state.setdefault(UNDER_WAY, {})
    return found
