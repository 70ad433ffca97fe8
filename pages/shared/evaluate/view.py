"""Which models and tasks of a board are shown, and in which order: filtered, sorted, pinned ones first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from nmerge_core.comparison.score_tables import primary
from nmerge_core.figures import style
from pages.shared.frame.address import forget_unknown
from pages.shared.frame.scoring import Board
from pages.shared.frame.settings import KEPT

FEW = 3  # models up to which there is nothing to choose


@dataclass(frozen=True)
class View:
    """What is shown: models whose name or kind has all the words, of some kinds (of all where none is named), tasks."""

    words: str = ""
    kinds: Sequence[str] = ()
    tasks: Sequence[str] = ()
    pinned: Sequence[str] = ()

    def names(self, kinds: Mapping[str, str]) -> list[str]:
        """The models that are shown, of some with their kinds: pinned ones first, whatever else is asked for."""
        words = self.words.casefold().split()
        fitting = [
            name
            for name, kind in kinds.items()
            if (not self.kinds or kind in self.kinds) and all(word in f"{name} {kind}".casefold() for word in words)
        ]
        first = [name for name in kinds if name in self.pinned]
        return [*first, *(name for name in fitting if name not in first)]


def draw_view(board: Board, kinds: Mapping[str, str]) -> View:
    """Draw the controls that choose what is shown of a board; of a few models everything is."""
    if len(board.names) <= FEW:
        return View()
    tasks = list(dict.fromkeys(primary(board.scores)["task"].astype(str)))
    short = style.short_names(board.names)
    first, second, third, fourth = st.columns(4)
    words = first.text_input(
        "Show", key="evaluate_words", placeholder="all, or words of names and methods", **KEPT
    ).strip()

    def several(place: DeltaGenerator, label: str, options: Sequence[str], key: str, none: str) -> list[str]:
        forget_unknown(key, options)
        called = {each: short.get(each, each) for each in options}
        found: list[str] = place.multiselect(
            label, options, key=key, placeholder=none, format_func=called.__getitem__, **KEPT
        )
        return found

    chosen = several(second, "Kinds and methods", list(dict.fromkeys(kinds.values())), "evaluate_kinds", "all")
    only = several(third, "Tasks shown", tasks, "evaluate_only", "all")
    pinned = several(fourth, "Pinned", board.names, "evaluate_pinned", "none: they stay first, and in every figure")
    return View(words, chosen, only, pinned)
