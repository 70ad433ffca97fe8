"""The strongest neurons at each token of a text, and how far models go on differently after it."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from nmerge_core.figures import style, texts
from nmerge_core.figures.departure import FULL, Piece


@dataclass(frozen=True)
class Named:
    """A neuron at a token, with its category, |φ| by its largest score, φ itself, and where its page is."""

    layer: int
    neuron: int
    category: str
    share: float
    activation: float
    address: str


def token_pieces(
    tokens: Sequence[str], strongest: Sequence[Sequence[Named]], colours: Mapping[str, str], given: int
) -> list[Piece]:
    """Shade each token in the colour of its strongest neuron's category; what a model added is underlined."""
    found = []
    for place, (token, neurons) in enumerate(zip(tokens, strongest, strict=True)):
        before = token[: len(token) - len(token.lstrip(" "))] if token.strip(" ") else ""
        css = ";border-bottom:2px solid currentColor" if place >= given else ""
        told = "generated · " if place >= given else ""
        if neurons:
            first = neurons[0]
            css = texts.ground(colours[first.category], round(texts.opacity(first.share), 3)) + css
            told += f"layer {first.layer}, neuron {first.neuron}, {first.category}, {style.percent(first.share)}"
        found.append(Piece(before, token[len(before) :].replace("\n", "↵\n"), css, told))
    return found


def neurons_beside(models: Mapping[str, Sequence[Named]], colours: Mapping[str, str]) -> str:
    """HTML: the strongest neurons at a token, a column for each model, each neuron a link to its page."""
    columns = []
    for label, neurons in models.items():
        rows = "".join(
            f'<li><a href="{html.escape(each.address)}" target="_self">{each.layer} · {each.neuron}</a> '
            f"{texts.chip(each.category, colours)} "
            f'<span title="φ = {each.activation:.3g}">{style.percent(each.share)}</span></li>'
            for each in neurons
        )
        columns.append(f'<div>{texts.titled(label)}<ol class="strong">{rows or "none"}</ol></div>')
    return f'<style>{texts.GRID_STYLE}{STYLE}</style><div class="strong-grid">{"".join(columns)}</div>'


def divergences(
    tokens: Sequence[str], values: Mapping[str, Sequence[float]], base: str, *, dark: bool = False
) -> go.Figure:
    """Draw KL(model ‖ base) after each token in nats, a row for each model; a cell's `customdata` is its token."""
    rows, names = style.plain_keys(values), style.short_names(values)
    shown = [style.plain(style.short(repr(token), 18)) for token in tokens]
    told = [
        [
            f"{style.plain(model)} after {token}<br>{style.significant(value)} nats from {style.plain(base)}"
            for token, value in zip(shown, own, strict=True)
        ]
        for model, own in rows.items()
    ]
    trace = {
        "type": "heatmap",
        "z": [list(own) for own in rows.values()],
        "x": list(range(len(tokens))),
        "y": [style.plain(name) for name in names.values()],
        "zmin": 0,
        "zmax": FULL,
        "colorscale": [[0, style.background(dark)], [1, style.MERGE]],
        "showscale": False,
        "hovertext": told,
        "hoverinfo": "text",
        "customdata": [list(range(len(tokens)))] * len(rows),
        "xgap": 1,
        "ygap": 1,
    }
    every = max(1, len(tokens) // 40)
    layout = {
        "template": style.template(dark),
        "height": 110 + 24 * len(rows),
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "xaxis": {
            "title": {"text": "token"},
            "tickmode": "array",
            "tickvals": list(range(0, len(tokens), every)),
            "ticktext": shown[::every],
            "tickangle": -60,
            "showgrid": False,
        },
        "yaxis": {"title": {"text": "model"}, "autorange": "reversed", "showgrid": False},
    }
    return go.Figure([trace], layout)


STYLE = """
.strong-grid { display: grid; gap: .4rem 1.2rem; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); }
.strong { margin: .2rem 0 0; padding-left: 1.2rem; font-size: .88rem; line-height: 1.9; }
.strong a { color: light-dark(#1F5FA8, #7FB2E6); font-variant-numeric: tabular-nums; }
"""
