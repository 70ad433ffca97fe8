"""One colour for one thing, one layout and one way to write numbers, in every figure."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import pandas as pd

Value = TypeVar("Value")

COLOURS = {"general": "#7F7F7F", "math": "#0072B2", "code": "#009E73", "translation": "#E69F00"}
# For categories of the user's own: what Okabe–Ito has left, then colours that stay apart for the colour-blind too.
FURTHER = ("#56B4E9", "#CC79A7", "#F0E442", "#8C510A", "#DDCC77", "#882255", "#44AA99", "#332288", "#999933", "#AA4499")
INTERSECTION = "#8E6BBF"
MERGE = "#D55E00"
RANDOM = "#9A9A9A"  # drawn dashed, with its band
LIGHT_INK, DARK_INK = "#FFFFFF", "#111111"
FONT = "Source Sans, Source Sans Pro, system-ui, sans-serif"


def base_colour(dark: bool = False) -> str:
    """The colour of the base model: black on paper, white on a dark screen."""
    return "#F2F2F2" if dark else "#1A1A1A"


def background(dark: bool = False) -> str:
    """The colour behind a figure, the same as the app's own background."""
    return "#111418" if dark else "#FFFFFF"


def category_colours(categories: Sequence[str]) -> dict[str, str]:
    """A colour per category; categories of the user's own take the free ones in the order given."""
    own = [category for category in dict.fromkeys(categories) if category not in COLOURS]
    extra = {category: FURTHER[i % len(FURTHER)] for i, category in enumerate(own)}
    return {category: COLOURS.get(category) or extra[category] for category in categories}


def translucent(colour: str, opacity: float) -> str:
    """The CSS colour `rgba(…)` of a `#rrggbb` colour, for bands and shading."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:.3f})"


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on a `#rrggbb` ground (WCAG relative luminance)."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return LIGHT_INK if luminance < 0.179 else DARK_INK


def template(dark: bool = False) -> dict[str, Any]:
    """The layout all figures share, as plotly takes it for a figure's `template`."""
    ink, grid = ("#E6E9EE", "#2E353F") if dark else ("#1A1D23", "#E3E6EB")
    axis = {
        "gridcolor": grid,
        "linecolor": grid,
        "zerolinecolor": grid,
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 13}},
    }
    return {
        "layout": {
            "font": {"family": FONT, "size": 13, "color": ink},
            "title": {"font": {"size": 15}, "x": 0, "xanchor": "left"},
            "paper_bgcolor": background(dark),
            "plot_bgcolor": background(dark),
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "x": 0, "yref": "container", "y": 1, "yanchor": "top"},
            "margin": {"l": 8, "r": 8, "t": 44, "b": 8},  # the top one has room for a line of legend
            "hoverlabel": {"align": "left", "font": {"family": FONT, "size": 13}},
            "separators": ".,",
            "bargap": 0.25,
            "bargroupgap": 0.06,
        }
    }


def plain(text: str) -> str:
    """A text of foreign origin for Plotly to draw letter by letter, not `<b>`, `<a href>`, `&lt;`, `$x$` as markup."""
    return html.escape(text, quote=False).replace("$", "&#36;")


def plain_keys(named: Mapping[str, Value]) -> dict[str, Value]:
    """The same of the names in a mapping."""
    return {plain(name): value for name, value in named.items()}


def plain_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The same of a table's texts and of the names of its columns."""
    texts = frame.select_dtypes(["object", "string"])
    written = {name: [plain(each) if isinstance(each, str) else each for each in texts[name]] for name in texts}
    return frame.assign(**written).rename(columns=plain)


def significant(value: float) -> str:
    """A number with three significant digits and thousands separated: 0.000123, 0.0700, 12.3, 12,345."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    text = f"{value:#.3g}"
    return text if "e" in text else text.rstrip(".")


def count(value: float) -> str:
    """A number of things with thousands separated: `12,345`; parts of one thing with one decimal."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def counted(number: int, what: str) -> str:
    """A number of things in words: `1 model`, `3 models`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage with one decimal: `11.2 %`."""
    return f"{100 * share:.1f} %"


def size(n_bytes: float) -> str:
    """A number of bytes in the decimal unit that keeps it readable: `1.54 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{significant(n_bytes)} {unit}"
        n_bytes /= 1000
    return f"{significant(n_bytes)} TB"


def duration(seconds: float) -> str:
    """A time in the units one would say it in: `45 s`, `3 min 20 s`, `2 h 05 min`."""
    if 0 < seconds < 0.5:
        return "< 1 s"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
