"""One colour for one thing, one layout and one way to write names and numbers, in every figure."""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd

Value = TypeVar("Value")

COLOURS = {"general": "#7F7F7F", "math": "#0072B2", "code": "#009E73", "translation": "#E69F00"}
# For categories of the user's own: what of Okabe–Ito has a contrast of 3 with both themes' backgrounds, a line's least,
# then colours that have it and are as far from all others here as they can be, for the colour-blind too (distances in
# OKLab, of the colours as they are and as protanopes and deuteranopes see them).
FURTHER = ("#CC79A7", "#208EEE", "#825E02", "#C61156", "#196F62", "#5455E6", "#B33096", "#169211")
INTERSECTION = "#8E6BBF"
MERGE = "#D55E00"
# Several merges: warm tints of the one colour, which a mark of its own tells apart where one does not see them so.
MERGES = (MERGE, "#BF8560", "#A84A00", "#E66F66", "#F06A00", "#765E44", "#CE4A4A", "#B98182", "#94623F", "#BD853F")
RANDOM = "#909090"  # drawn dashed, with its band
LIGHT_INK, DARK_INK = "#FFFFFF", "#000000"  # one of them has a contrast of 4.5 on any ground
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


@dataclass(frozen=True)
class Mark:
    """What tells things of one colour apart: the line's dash, the marker's symbol, the bar's pattern."""

    dash: str
    symbol: str
    pattern: str


PLAIN = Mark("solid", "circle", "")
_MARKS = (
    PLAIN,
    Mark("dash", "square", "/"),
    Mark("dot", "diamond", "x"),
    Mark("dashdot", "triangle-up", "."),
    Mark("longdash", "cross", "-"),
)


def marks(colours: Mapping[str, str]) -> dict[str, Mark]:
    """The mark of each thing: the plain one for the first of its colour, others for those that share it.

    The tints of merges, which are hard to tell apart, begin each with a mark of its own.
    """
    seen: dict[str, int] = {}
    found = {}
    for name, colour in colours.items():
        first = MERGES.index(colour) if colour in MERGES else 0
        found[name] = _MARKS[(first + seen.get(colour, 0)) % len(_MARKS)]
        seen[colour] = seen.get(colour, 0) + 1
    return found


def merge_colours(names: Sequence[str]) -> dict[str, str]:
    """A tint of the merges' colour for each merge."""
    return {name: MERGES[index % len(MERGES)] for index, name in enumerate(names)}


def short(name: str, length: int = 28) -> str:
    """A name with its middle left out where it is longer than `length` characters."""
    if len(name) <= length:
        return name
    end = length // 3
    return f"{name[: length - end - 1]}…{name[-end:]}"


def short_names(names: Iterable[str], length: int = 28) -> dict[str, str]:
    """A short name for each name, numbered where two would be called the same."""
    found: dict[str, str] = {}
    for name in names:
        candidate, number = short(name, length), 2
        while candidate in found.values():
            candidate, number = f"{short(name, length)} ({number})", number + 1
        found[name] = candidate
    return found


def translucent(colour: str, opacity: float) -> str:
    """The CSS colour `rgba(…)` of a `#rrggbb` colour, for bands and shading."""
    red, green, blue = channels(colour)
    return f"rgba({red},{green},{blue},{opacity:.3f})"


def over(colour: str, opacity: float, ground: str) -> str:
    """The `#rrggbb` colour that a translucent one gives on a ground."""
    mixed = (round(opacity * c + (1 - opacity) * g) for c, g in zip(channels(colour), channels(ground), strict=True))
    return "#" + "".join(f"{channel:02X}" for channel in mixed)


def contrast(one: str, other: str) -> float:
    """The contrast of two `#rrggbb` colours, 1 to 21 (WCAG 2, relative luminance)."""
    lower, higher = sorted((_luminance(one), _luminance(other)))
    return (higher + 0.05) / (lower + 0.05)


def legible(ground: str, ink: str) -> str:
    """The ink if it reads on a ground (4.5 : 1, WCAG AA), else black or white, whichever reads better."""
    return ink if contrast(ground, ink) >= 4.55 else ink_on(ground)  # as browsers round what shines through


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on a `#rrggbb` ground."""
    return max((LIGHT_INK, DARK_INK), key=lambda ink: contrast(colour, ink))


def ink(dark: bool = False) -> str:
    """The colour of text, the same as the app's own."""
    return "#E6E9EE" if dark else "#1A1D23"


def channels(colour: str) -> list[int]:
    """The red, green and blue of a `#rrggbb` colour, 0 to 255."""
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def _luminance(colour: str) -> float:
    shares = [channel / 255 for channel in channels(colour)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# The labels of an axis have as many decimals as its steps need, and all as many: 0.30, 0.35, not 0.3, 0.35. (Plotly
# takes it of an axis alone, not of a template's.)
TICKS = [
    {"dtickrange": [10.0**-decimals, 9.9 * 10.0**-decimals], "value": f",.{decimals}f"} for decimals in range(1, 7)
]


def template(dark: bool = False) -> dict[str, Any]:
    """The layout all figures share, as plotly takes it for a figure's `template`."""
    grid = "#2E353F" if dark else "#E3E6EB"
    axis = {
        "gridcolor": grid,
        "linecolor": grid,
        "zerolinecolor": grid,
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 13}},
    }
    return {
        "layout": {
            "font": {"family": FONT, "size": 13, "color": ink(dark)},
            "title": {"font": {"size": 15}, "x": 0, "xanchor": "left"},
            "paper_bgcolor": background(dark),
            "plot_bgcolor": background(dark),
            "xaxis": axis,
            "yaxis": axis,
            "legend": {
                "orientation": "h",
                "xref": "container",
                "x": 0,
                "yref": "container",
                "y": 1,
                "yanchor": "top",
                "maxheight": 1,
            },
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
    return plain_values(frame).rename(columns=plain)


def plain_values(frame: pd.DataFrame) -> pd.DataFrame:
    """The same of a table's texts alone."""
    texts = frame.select_dtypes(["object", "string"])
    written = {name: [plain(each) if isinstance(each, str) else each for each in texts[name]] for name in texts}
    return frame.assign(**written)


def significant(value: float) -> str:
    """A number with three significant digits and thousands separated: 0.000123, 0.0700, 12.3, 12,345."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    text = f"{value:#.3g}"
    return text if "e" in text else text.rstrip(".")


def count(value: float) -> str:
    """A number of things with thousands separated, `12,345`; of a thing in the making nothing is counted yet."""
    return f"{int(value):,}"


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
    """A time in the units one would say it in: `under 1 s`, `45 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 1:
        return "under 1 s"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def roughly(seconds: float) -> str:
    """An estimated time, no finer than it can be known: `some seconds`, `about 40 s`, `about 5 min`, `about 3 h`."""
    if seconds < 15:
        return "some seconds"
    unit, size = ("s", 1) if seconds < 90 else ("min", 60) if seconds < 5400 else ("h", 3600)
    amount = seconds / size
    step = 10 if amount >= 20 else 5 if amount >= 10 else 1
    return f"about {step * round(amount / step):,} {unit}"
