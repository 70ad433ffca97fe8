"""Texts as HTML, token by token, shaded by how strongly a neuron fires; side by side, one column a model."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from nmerge_core.figures import style

READABLE = 210  # pixels that a text needs at least


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

    def body(self, colour: str, window: int | None) -> str:
        """The text as HTML, shaded in a colour."""
        return f"<p>{shaded(self, colour, window)}</p>"


class Drawn(Protocol):
    """What one model's neuron makes of an exemplar: the model's name, a short line, and the exemplar as HTML."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def note(self) -> str:
        """A short line above the exemplar."""

    def body(self, colour: str, window: int | None) -> str:
        """The exemplar as HTML, marked in a colour."""


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


def grid(heads: Sequence[str], rows: Sequence[tuple[str, str, Sequence[Drawn]]], window: int | None = None) -> str:
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
            name = f"<b>{html.escape(style.short(cell.model))} · </b>"
            body.append(f'<div class="cell"><small>{name}{cell.note}</small>{cell.body(colour, window)}</div>')
    number = len(heads)
    top = "".join(f'<div class="head">{head}</div>' for head in heads)
    table = f'<div class="neuron-grid of-{number}">{top}{"".join(body)}</div>'
    return f'<style>{GRID_STYLE}{_columns(number)}</style><div class="neuron-room">{table}</div>'


def _columns(number: int) -> str:
    """The CSS of a grid for some models: a column each where there is room, else half as many, else one at a time."""
    of, half = f".neuron-grid.of-{number}", -(-number // 2)
    narrower = (
        ""
        if number < 3
        else (
            f"@container (max-width: {READABLE * number}px) {{\n"
            f"  {of} {{ grid-template-columns: repeat({half}, minmax(0, 1fr)); }}\n"
            f"  {of} .cell b {{ display: inline; }}\n"
            "}\n"
        )
    )
    swiped = (
        ""
        if number < 2
        else (
            f"@container (max-width: {READABLE * half}px) {{\n"
            f"  {of} {{ grid-template-columns: repeat({number}, 88%); }}\n"
            f"  {of} .row-title {{ position: sticky; left: 0; width: 88cqw; }}\n"
            "}\n"
        )
    )
    return (
        f"{of} {{ grid-template-columns: repeat({number}, minmax(0, 1fr)); }}\n"
        f"{of} .cell b {{ display: none; }}\n{narrower}{swiped}"
    )


GRID_STYLE = """
.neuron-room { container-type: inline-size; overflow-x: auto; scroll-snap-type: x proximity; }
.neuron-grid { display: grid; gap: .35rem .9rem; font-size: .86rem; line-height: 1.5; }
.neuron-grid .head { font-size: .9rem; padding-bottom: .35rem; border-bottom: 1px solid rgba(128,128,128,.35); }
.neuron-grid .row-title { grid-column: 1 / -1; margin-top: .7rem; opacity: .95; }
.neuron-grid .cell { border-left: 2px solid rgba(128,128,128,.25); padding-left: .6rem; overflow-wrap: anywhere;
  scroll-snap-align: start; }
.neuron-grid .cell small { opacity: .75; }
.neuron-grid .cell p { margin: 0; font-size: inherit; white-space: pre-wrap; tab-size: 4; }
.neuron-grid span[title] { border-radius: 3px; padding: .05em 0; }
.chip { border-radius: 4px; padding: .05rem .45rem; font-weight: 600; font-size: .82rem; }
.row-title .chip { margin-left: .25rem; }
.votes { display: inline-flex; gap: 2px; vertical-align: middle; }
.votes i { width: .72rem; height: .72rem; border-radius: 2px; display: inline-block; }
"""
