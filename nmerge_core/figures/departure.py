"""Where a merge departs from its models: a text shaded by how far, and what each of them expects to come next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from nmerge_core.figures import style, texts

FULL = 2.0  # nats at which a token is in full shade: the merge finds what it says e² times as likely as the model
_TOKENS = 8  # of what may come next that are drawn
_LEAST = 0.01  # probability in any model below which a token is not drawn
_BAR, _GAP = 9, 12  # pixels of a bar, and between the bars of two tokens


@dataclass(frozen=True)
class Piece:
    """A token as a strip shows it: `before` are spaces, unshaded; `style` is its CSS, `told` what is said of it."""

    before: str
    text: str
    style: str
    told: str


def pieces(tokens: Sequence[str], values: Sequence[float], model: str) -> list[Piece]:
    """Shade tokens by KL(merge ‖ model) in nats, on the scale of the Explorer: full from `FULL` on."""
    found = []
    for token, value in zip(tokens, values, strict=True):
        before = (
            token[: len(token) - len(token.lstrip(" "))] if token.strip(" ") else ""
        )  # else it hangs at a line's end
        shade = texts.opacity(value / FULL)
        css = texts.ground(style.MERGE, round(shade, 3)) if shade else ""
        text = token[len(before) :].replace("\n", "↵\n")
        found.append(Piece(before, text, css, f"{style.significant(value)} nats from {model} after this token"))
    return found


def next_tokens(
    tokens: Sequence[str],
    probabilities: Mapping[str, Sequence[float]],
    colours: Mapping[str, str],
    *,
    dark: bool = False,
) -> go.Figure:
    """Draw how probable the likeliest next tokens are, a bar for each model.

    Args:
        tokens: What may come next, as text.
        probabilities: Of each model, by its name, in the order of its bars; of each token, in [0, 1].
        colours: The colour of each model.
        dark: The reader's theme.
    """
    highest = [max(each) for each in zip(*probabilities.values(), strict=True)]
    order = sorted(range(len(tokens)), key=lambda place: -highest[place])[:_TOKENS]
    shown = sorted(place for place in order if highest[place] >= _LEAST or place == order[0])
    named = [style.plain(style.short(repr(tokens[place]))) for place in shown]
    probabilities, colours = style.plain_keys(probabilities), style.plain_keys(colours)
    names, marks = style.short_names(probabilities), style.marks({name: colours[name] for name in probabilities})
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "y": list(range(len(shown))),
            "x": [100 * own[place] for place in shown],
            "name": names[model],
            "marker": {"color": colours[model], "pattern": {"shape": marks[model].pattern}},
            "hovertext": [f"{name} · {model}<br>{style.percent(own[p])}" for name, p in zip(named, shown, strict=True)],
            "hoverinfo": "text",
        }
        for model, own in probabilities.items()
    ]
    layout = {
        "template": style.template(dark),
        "height": 110 + len(shown) * (len(traces) * _BAR + _GAP),
        "xaxis": {"title": {"text": "probability of the next token, %"}, "rangemode": "tozero"},
        "yaxis": {
            "title": {"text": "token"},
            "tickmode": "array",
            "tickvals": list(range(len(shown))),
            "ticktext": named,
            "autorange": "reversed",
            "showgrid": False,
        },
    }
    return go.Figure(traces, layout)
