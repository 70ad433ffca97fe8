"""A neuron's exemplars as HTML: tokens shaded by activation, votes as coloured squares (NeuronMerge Figs. 2b, 11)."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd

from nmerge_core.figures import style

READABLE = 210  # pixels that a text needs at least
WINDOW = 14  # tokens shown either side of the strongest one
PLAIN = 240  # characters of a text shown before its tokens are known

Answers = Mapping[str, Sequence[Mapping[str, Any]]]  # model → for each text its "tokens" and the "values" of φ on them


@dataclass(frozen=True)
class Cell:
    """One exemplar as one model's neuron sees it.

    `model` is its name; `values` are the neuron's activations φ on `tokens` (empty until known); `peak` is what counts
    as full shade; `note` is a short line above the text.
    """

    model: str
    tokens: Sequence[str]
    values: Sequence[float]
    peak: float
    note: str


@dataclass(frozen=True)
class Seen:
    """A neuron as one model has it: its category, who voted, and its strongest exemplars with their scores."""

    label: str
    category: str
    votes: Sequence[str]
    ids: Sequence[int]
    scores: Sequence[float]

    @property
    def peak(self) -> float:
        """The highest score over all texts."""
        return self.scores[0]

    def head(self, colours: Mapping[str, str]) -> str:
        """HTML for the top of the model's column."""
        return (
            f"{titled(self.label)} {chip(self.category, colours)}<br>"
            f"{votes(self.votes, colours)} <small>highest score {style.significant(self.peak)}</small>"
        )

    def note(self, exemplar: int) -> str:
        """The rank and score of an exemplar."""
        if exemplar not in self.ids:
            return f"not among its {len(self.ids)} strongest"
        place = self.ids.index(exemplar)
        return f"number {place + 1} · score {style.significant(self.scores[place])}"


def strongest_texts(
    models: Sequence[Seen], texts: pd.DataFrame, answers: Answers, colours: Mapping[str, str], window: int | None
) -> str:
    """The strongest texts of one model as every model reads them: plain where there is no answer (yet).

    Args:
        models: The neuron as each model has it.
        texts: Columns id, category, text.
        answers: The tokens and activations of each text.
        colours: The colour of each category.
        window: Tokens to keep either side of the strongest one; all if None.
    """
    rows = []
    for rank, text in enumerate(texts.itertuples()):
        plain = {"tokens": [text.text[:PLAIN]], "values": []}
        read = {seen.label: answers[seen.label][rank] if seen.label in answers else plain for seen in models}
        cells = [
            Cell(seen.label, read[seen.label]["tokens"], read[seen.label]["values"], seen.peak, seen.note(text.id))
            for seen in models
        ]
        rows.append((f"{rank + 1} {chip(text.category, colours)}", colours[text.category], cells))
    return grid([seen.head(colours) for seen in models], rows, window)


def own_texts(models: Sequence[Seen], texts: pd.DataFrame, answers: Answers, colours: Mapping[str, str]) -> str:
    """Texts of the reader's own, whole, as every model that answered reads them; arguments as of `strongest_texts`."""
    answering = [seen for seen in models if seen.label in answers]
    rows = []
    for rank, text in enumerate(texts.itertuples()):
        cells = []
        for seen in answering:
            read = answers[seen.label][rank]
            score = max(map(abs, read["values"]), default=0.0)
            cells.append(
                Cell(seen.label, read["tokens"], read["values"], seen.peak, f"score {style.significant(score)}")
            )
        rows.append(("", colours[text.category], cells))
    return grid([titled(seen.label) for seen in answering], rows)


def opacity(share: float) -> float:
    """The shade of a token at `share` in [0, 1] of the peak: `0.05 + 0.95·log10(1 + 9·share)`, 0 at 0 (Neuronpedia)."""
    return 0.05 + 0.95 * math.log10(1 + 9 * min(share, 1.0)) if share > 0 else 0.0


def shaded(cell: Cell, colour: str, window: int | None = None) -> str:
    """The tokens as HTML, each shaded by |φ| in `colour`; strong negative ones underlined with dots.

    `window` keeps that many tokens either side of the strongest one. All text is escaped.
    """
    values = list(cell.values) or [0.0] * len(cell.tokens)
    start, stop = _around_peak(values, window) if cell.values else (0, 3 * window if window else len(values))
    spans = [_token(token, value, cell.peak, colour) for token, value in zip(cell.tokens, values, strict=True)]
    return ("…" if start else "") + "".join(spans[start:stop]) + (" …" if stop < len(spans) else "")


def _around_peak(values: Sequence[float], window: int | None) -> tuple[int, int]:
    if window is None:
        return 0, len(values)
    peak = max(range(len(values)), key=lambda t: abs(values[t]))
    return max(0, peak - window), min(len(values), peak + window + 1)


def _token(token: str, value: float, peak: float, colour: str) -> str:
    shade = opacity(abs(value) / peak) if peak > 0 else 0.0
    text = html.escape(token).replace("\n", "↵\n")  # shown with its spaces and line breaks, as `pre-wrap` has it
    before = text[: len(text) - len(text.lstrip(" "))] if text.strip(" ") else ""  # else a shade hangs at a line's end
    text = text[len(before) :]
    if shade == 0.0:
        return before + text
    sign = ";border-bottom:2px dotted currentColor" if value < 0 and shade > 0.3 else ""
    css = f"{ground(colour, round(shade, 3))}{sign}"
    return f'{before}<span style="{css}" title="φ = {value:.3g}">{text}</span>'


@lru_cache(maxsize=8192)  # every token of every text has one, and few of them differ in what is seen
def ground(colour: str, shade: float) -> str:
    """The CSS of text on a shade of a colour: its background, and an ink that reads on it in both themes.

    The background is the colour over white in the light theme and over the dark theme's in the other; where the theme's
    own ink does not reach a contrast of 4.5 : 1 on it, the other one does (`light-dark` picks by the theme).
    """
    inks = [style.legible(style.over(colour, shade, style.background(dark)), style.ink(dark)) for dark in (False, True)]
    own = [style.ink(dark) for dark in (False, True)]
    ink = "" if inks == own else f";color:light-dark({inks[0]},{inks[1]})"
    return f"background:{style.translucent(colour, shade)}{ink}"


def votes(categories: Sequence[str], colours: Mapping[str, str]) -> str:
    """The categories of the top-k exemplars, strongest first, as a row of coloured squares."""
    squares = [
        f'<i title="{i + 1}: {html.escape(category)}" style="background:{colours[category]}"></i>'
        for i, category in enumerate(categories)
    ]
    return f'<span class="votes">{"".join(squares)}</span>'


def titled(label: str) -> str:
    """A model's name, its middle left out where it is long; whole when pointed at."""
    return f'<b title="{html.escape(label)}">{html.escape(style.short(label))}</b>'


def chip(category: str, colours: Mapping[str, str]) -> str:
    """A category's name on its colour."""
    colour = colours[category]
    return f'<b class="chip" style="background:{colour};color:{style.ink_on(colour)}">{html.escape(category)}</b>'


def grid(heads: Sequence[str], rows: Sequence[tuple[str, str, Sequence[Cell]]], window: int | None = None) -> str:
    """A table of one column per model and one row per exemplar.

    Args:
        heads: HTML at the top of each column.
        rows: Per exemplar its title (HTML), the colour that shades it, and a cell per model.
        window: Tokens to keep either side of the strongest one; all if None.
    """
    body = []
    for title, colour, cells in rows:
        body.append(f'<div class="row-title">{title}</div>')
        for cell in cells:
            text = shaded(cell, colour, window)
            name = f"<b>{html.escape(style.short(cell.model))} · </b>"
            body.append(f'<div class="cell"><small>{name}{cell.note}</small><p>{text}</p></div>')
    number = len(heads)
    top = "".join(f'<div class="head">{head}</div>' for head in heads)
    table = f'<div class="neuron-grid of-{number}">{top}{"".join(body)}</div>'
    return f'<style>{GRID_STYLE}{_columns(number)}</style><div class="neuron-room">{table}</div>'


def _columns(number: int) -> str:
    """The CSS of a grid for a number of models: a column each where there is room, else half as many, else one."""
    of, half = f".neuron-grid.of-{number}", -(-number // 2)
    narrower = "".join(
        f"@container (max-width: {READABLE * columns}px) {{\n"
        f"  {of} {{ grid-template-columns: repeat({fewer}, minmax(0, 1fr)); }}\n"
        f"  {of} .cell b {{ display: inline; }}\n"
        "}\n"
        for columns, fewer in ((number, half), (half, 1))
        if columns > 1
    )
    return (
        f"{of} {{ grid-template-columns: repeat({number}, minmax(0, 1fr)); }}\n"
        f"{of} .cell b {{ display: none; }}\n{narrower}"
    )


GRID_STYLE = """
.neuron-room { container-type: inline-size; }
.neuron-grid { display: grid; gap: .35rem .9rem; font-size: .86rem; line-height: 1.5; }
.neuron-grid .head { font-size: .9rem; padding-bottom: .35rem; border-bottom: 1px solid rgba(128,128,128,.35); }
.neuron-grid .row-title { grid-column: 1 / -1; margin-top: .7rem; opacity: .95; }
.neuron-grid .cell { border-left: 2px solid rgba(128,128,128,.25); padding-left: .6rem; overflow-wrap: anywhere; }
.neuron-grid .cell small { opacity: .75; }
.neuron-grid .cell p { margin: 0; font-size: inherit; white-space: pre-wrap; tab-size: 4; }
.neuron-grid span[title] { border-radius: 3px; padding: .05em 0; }
.chip { border-radius: 4px; padding: .05rem .45rem; font-weight: 600; font-size: .82rem; }
.votes { display: inline-flex; gap: 2px; vertical-align: middle; }
.votes i { width: .72rem; height: .72rem; border-radius: 2px; display: inline-block; }
"""
