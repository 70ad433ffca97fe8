"""Scores of models on tasks: bars with their 95 % confidence intervals, and what a metric's number means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.comparison.score_tables import primary
from nmerge_core.figures import style
from nmerge_core.figures.panels import LEGEND, TITLE, cell, panels

ROOM = 1.3  # times what bars and whiskers need: the values stand in a column at the right end
# One scale for all shares.
SHARES = {"range": [0, 100 * ROOM], "tickvals": [0, 20, 40, 60, 80, 100], "tickformatstops": []}


@dataclass(frozen=True)
class Metric:
    """How a metric is written: its name, whether it is a share in [0, 1], and whether more of it is better."""

    title: str
    share: bool
    higher_is_better: bool = True

    def write(self, value: float) -> str:
        """The value with its unit."""
        return style.percent(value) if self.share else style.significant(value)

    def change(self, value: float) -> str:
        """A difference without its unit: of shares in points, of other metrics with three digits."""
        if self.share:
            return f"{100 * value:+.1f}"
        return f"{'-' if value < 0 else '+'}{style.significant(abs(value))}"

    @property
    def axis(self) -> str:
        """The title of an axis of this metric."""
        return self.title + (", %" if self.share else "") + ("" if self.higher_is_better else " (lower is better)")


_METRICS = {
    "exact_match": Metric("exact match", share=True),
    "pass@1": Metric("pass@1", share=True),
    "acc": Metric("accuracy", share=True),
    "acc_norm": Metric("accuracy, length-normalised", share=True),
    "f1": Metric("F1", share=True),
    "chrf": Metric("chrF, 0–100", share=False),
    "bleu": Metric("BLEU, 0–100", share=False),
    "word_perplexity": Metric("perplexity per word", share=False, higher_is_better=False),
    "byte_perplexity": Metric("perplexity per byte", share=False, higher_is_better=False),
    "perplexity": Metric("perplexity", share=False, higher_is_better=False),
    "bits_per_byte": Metric("bits per byte", share=False, higher_is_better=False),
    "loss": Metric("loss, nats per token", share=False, higher_is_better=False),
}


def metric(name: str) -> Metric:
    """Look up how a metric is written; one we do not know is a plain number, more of it better.

    `name` may end in the filter it was taken behind, as lm-eval writes it: `exact_match,strict-match`; and of what it
    is may stand before it: `math/loss`, of texts of that category.
    """
    kind, _, behind = name.partition(",")
    texts, of, loss = kind.rpartition("/")
    if of and loss == "loss":
        return replace(_METRICS[loss], title=f"loss on {texts}, nats per token")
    known = _METRICS.get(kind, Metric(kind, share=False))
    return replace(known, title=f"{known.title} ({behind})") if behind else known


def bars(
    scores: pd.DataFrame, colours: Mapping[str, str], models: Sequence[str], *, base: str = "", dark: bool = False
) -> go.Figure:
    """Draw each task's primary metric, a panel per task and a bar per model, with 95 % confidence intervals.

    Args:
        scores: Columns model, task, metric, value, low, high, samples (of `evaluation.evaluate`).
        colours: The colour of each model.
        models: The models to draw, first on top.
        base: The model the hover compares with; none when empty.
        dark: The reader's theme.
    """
    scores, colours, models = style.plain_table(scores), style.plain_keys(colours), [*map(style.plain, models)]
    kept = primary(scores)
    tasks = list(dict.fromkeys(kept["task"]))
    names = {task: metric(kept.loc[kept["task"] == task, "metric"].iloc[0]) for task in tasks}
    layout = panels(
        [f"{task} · {names[task].axis}" for task in tasks],
        columns=2,
        yaxis={
            "categoryorder": "array",
            "categoryarray": list(reversed(style.short_names(models).values())),
            "showgrid": False,
            "ticklabelstandoff": 6,
        },
        height=70 + 30 * len(models),
        dark=dark,
    )
    layout |= {"margin": {"t": TITLE}, "height": layout["height"] - LEGEND}
    layout["meta"] |= {"legend": 0}
    short, marks = style.short_names(models), style.marks({model: colours[model] for model in models})
    traces = []
    for index, task in enumerate(tasks):
        rows = kept[kept["task"] == task].set_index("model").reindex(models).dropna(subset=["value"])
        known, scale = names[task], 100 if names[task].share else 1
        up, down = (scale * (end - rows["value"]).abs().fillna(0) for end in (rows["high"], rows["low"]))
        bars_of_task = {
            "type": "bar",
            "orientation": "h",
            "y": [short[model] for model in rows.index],
            "x": scale * rows["value"],
            "error_x": {"array": up, "arrayminus": down, "thickness": 1.5, "width": 3, "color": "#8A8F98"},
            "marker": {
                "color": [colours[model] for model in rows.index],
                "pattern": {
                    "shape": [marks[model].pattern for model in rows.index],
                    "fillmode": "overlay",
                    "solidity": 0.15,
                },
            },
            "hovertext": [_fact(row, known, rows["value"].get(base)) for row in rows.reset_index().to_dict("records")],
            "hoverinfo": "text",
            "showlegend": False,
            **cell(index),
        }
        end = 100 * ROOM if known.share else ROOM * float((rows["value"] + up).max())
        written = {  # the values below each other at the right end, where no bar, whisker or other panel hides them
            "type": "scatter",
            "y": [short[model] for model in rows.index],
            "x": [end] * len(rows),
            "mode": "text",
            "text": [known.write(value) for value in rows["value"]],
            "textposition": "middle left",
            "hoverinfo": "skip",
            "showlegend": False,
            "cliponaxis": False,
            **cell(index),
        }
        traces += [bars_of_task, written]
        layout[f"xaxis{index + 1}"] |= SHARES if known.share else {"range": [0, end]}
    return go.Figure(traces, layout)


def table(scores: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Write the scores for reading: a row per model, a column per task and metric, with the 95 % interval."""
    columns = {}
    for (task, name), rows in scores.groupby(["task", "metric"], sort=False):
        known = metric(str(name))
        cells = rows.set_index("model")
        group = " (group)" if rows.get("group", pd.Series(dtype=bool)).eq(True).any() else ""
        columns[f"{task}{group} · {known.title}"] = {
            model: known.write(cells.at[model, "value"]) + _interval(cells.loc[model], known)
            for model in models
            if model in cells.index
        }
    return pd.DataFrame(columns).reindex(models).rename_axis("model").fillna("–").reset_index()


def _interval(row: Mapping[str, float], known: Metric) -> str:
    """Write the ends of the interval with as many decimals as the value."""
    if pd.isna(row["low"]):
        return ""
    scale = 100 if known.share else 1
    decimals = len(known.write(row["value"]).removesuffix(" %").partition(".")[2])
    return f" [{scale * row['low']:,.{decimals}f}, {scale * row['high']:,.{decimals}f}]"


def _fact(row: Mapping[str, float], known: Metric, base: float | None) -> str:
    fact = (
        f"{row['model']} · {row['task']} · {known.title}<br>{known.write(row['value'])}"
        f"{_interval(row, known)} (95 %) · {style.count(row['samples'])} problems"
    )
    if base is None or row["value"] == base:
        return fact
    unit = " points" if known.share else ""
    return f"{fact}<br>{known.change(row['value'] - base)}{unit} against the base"
