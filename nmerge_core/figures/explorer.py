"""A neuron's exemplars as HTML: tokens shaded by activation, votes as coloured squares (NeuronMerge Figs. 2b, 11)."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nmerge_core.figures import style

WINDOW = 14  # tokens shown either side of the strongest one
PLAIN = 240  # characters of a text shown before its tokens are known

Answers = Mapping[str, Sequence[Mapping[str, Any]]]  # model → for each text its "tokens" and the "values" of φ on them


@dataclass(frozen=True)
class Cell:
    """One exemplar as one model's neuron sees it.

    `values` are the neuron's activations φ on `tokens` (empty until known); `peak` is what counts as full shade;
    `note` is a short line above the text.
    """

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
            f"<b>{html.escape(self.label)}</b> {chip(self.category, colours)}<br>"
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
            Cell(read[seen.label]["tokens"], read[seen.label]["values"], seen.peak, seen.note(text.id))
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
            cells.append(Cell(read["tokens"], read["values"], seen.peak, f"score {style.significant(score)}"))
        rows.append(("", colours[text.category], cells))
    return grid([f"<b>{html.escape(seen.label)}</b>" for seen in answering], rows)


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
    return ("… " if start else "") + "".join(spans[start:stop]) + (" …" if stop < len(spans) else "")


def _around_peak(values: Sequence[float], window: int | None) -> tuple[int, int]:
    if window is None:
        return 0, len(values)
    peak = max(range(len(values)), key=lambda t: abs(values[t]))
    return max(0, peak - window), min(len(values), peak + window + 1)


def _token(token: str, value: float, peak: float, colour: str) -> str:
    shade = opacity(abs(value) / peak) if peak > 0 else 0.0
    text = html.escape(token).replace("\n", "↵<br>")
    if shade == 0.0:
        return text
    ink = style.ink_on(colour)
    legible = 0.6 if ink == style.DARK_INK else 0.85  # below, the page's own ink reads better on either theme
    ink = f";color:{ink}" if shade > legible else ""
    sign = ";border-bottom:2px dotted currentColor" if value < 0 and shade > 0.3 else ""
    css = f"background:{style.translucent(colour, shade)}{ink}{sign}"
    return f'<span style="{css}" title="φ = {value:.3g}">{text}</span>'


def votes(categories: Sequence[str], colours: Mapping[str, str]) -> str:
    """The categories of the top-k exemplars, strongest first, as a row of coloured squares."""
    squares = [
        f'<i title="{i + 1}: {html.escape(category)}" style="background:{colours[category]}"></i>'
        for i, category in enumerate(categories)
    ]
    return f'<span class="votes">{"".join(squares)}</span>'


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
            body.append(f'<div class="cell"><small>{cell.note}</small><p>{shaded(cell, colour, window)}</p></div>')
    columns = f"grid-template-columns:repeat({len(heads)},minmax(170px,1fr))"
    top = "".join(f'<div class="head">{head}</div>' for head in heads)
    table = f'<div class="neuron-grid" style="{columns}">{top}{"".join(body)}</div>'
    return f'{GRID_STYLE}<div class="neuron-scroll">{table}</div>'


GRID_STYLE = """<style>
.neuron-scroll { overflow-x: auto; }
.neuron-grid { display: grid; gap: .35rem .9rem; font-size: .86rem; line-height: 1.5; }
.neuron-grid .head { font-size: .9rem; padding-bottom: .35rem; border-bottom: 1px solid rgba(128,128,128,.35); }
.neuron-grid .row-title { grid-column: 1 / -1; margin-top: .7rem; opacity: .95; }
.neuron-grid .cell { border-left: 2px solid rgba(128,128,128,.25); padding-left: .6rem; overflow-wrap: anywhere; }
.neuron-grid .cell small { opacity: .65; }
.neuron-grid .cell p { margin: 0; font-size: inherit; }
.neuron-grid span[title] { border-radius: 3px; padding: .05em 0; }
.chip { border-radius: 4px; padding: .05rem .45rem; font-weight: 600; font-size: .82rem; }
.votes { display: inline-flex; gap: 2px; vertical-align: middle; }
.votes i { width: .72rem; height: .72rem; border-radius: 2px; display: inline-block; }
</style>"""
