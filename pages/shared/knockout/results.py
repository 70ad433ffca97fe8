"""What the Knock-out page shows of finished runs: curves or a heat map of several models, read out, and the numbers."""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from nmerge_core.comparison.paired import LEVEL, holm
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.figures.effects import LOSS, OWN, by_layer, metrics_of, of_metric
from nmerge_core.figures.knockout import INTACT, RANDOM, curves, spread
from nmerge_core.figures.scores import Metric, metric
from nmerge_core.runs.folder import Run
from pages.shared.charts.charts import dark
from pages.shared.frame.address import forget_unknown
from pages.shared.frame.family import category_colours
from pages.shared.frame.results import read_table
from pages.shared.frame.settings import KEPT
from pages.shared.frame.terms import NATS
from pages.shared.frame.text import verbatim
from pages.shared.knockout.controls import KEEP, MAP, Chosen
from pages.shared.neurons.behind import show_neurons

CAPTION = (
    "The line is the mean over the draws, the band reaches from the lowest to the highest; of the whole category there "
    "is but one. What is said of the whole category has its 95 % interval over problems and draws; p is adjusted for "
    "the number of models (Holm)."
)
CAPTION_MAP = (
    "How much worse a model is without a category's neurons of one layer than without as many random ones of the "
    "layer, ± its standard error over problems and draws; **pale** where that may be chance (p ≥ 0.05, by Holm over "
    "all cells)."
)


def draw(runs: Mapping[str, Run], neurons: Mapping[str, Run], chosen: Chosen, family: Family) -> str:
    """Draw what was measured of each model, by its `neurons`' classification; return the metric that was chosen."""
    if chosen.view == MAP:
        return _draw_map(_tables(runs, "effects.csv"), neurons, family)
    curve, effects = (_tables(runs, name) for name in ("knockout.csv", "effects.csv"))
    return _draw_curves(curve, effects, neurons, chosen, family)


def _tables(runs: Mapping[str, Run], name: str) -> pd.DataFrame:
    return pd.concat([read_table(run, name).assign(model=label) for label, run in runs.items()], ignore_index=True)


def _metric(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    forget_unknown("knockout_metric", names)
    return st.selectbox("Metric", names, format_func=_named, key="knockout_metric", width=320, **KEPT)


def _named(name: str) -> str:
    return "each category on its own texts" if name == OWN else verbatim(metric(name).title)


def _draw_curves(
    frame: pd.DataFrame, effects: pd.DataFrame, neurons: Mapping[str, Run], chosen: Chosen, family: Family
) -> str:
    category, keep = chosen.category, chosen.view == KEEP
    name = _metric(list(dict.fromkeys(frame["metric"])))
    rows, models = frame[frame["metric"] == name], list(dict.fromkeys(frame["model"]))
    last = effects[(effects["metric"] == name) & (effects["proportion"] == effects["proportion"].max())]
    last = last.assign(adjusted=holm(list(last["p"]))).set_index("model")
    said = []
    for model in models:
        by = how_sure(last.loc[model].to_dict(), metric(name), keep) if model in last.index else ""
        said.append(f"{reading(rows[rows['model'] == model], category, keep_only=keep)} {by}")
    named = [f"- **{verbatim(model)}**: {each}" for model, each in zip(models, said, strict=True)]
    st.markdown(said[0] if len(models) == 1 else "\n".join(named))
    colours = category_colours(family, [category])
    figure = curves(frame, name, colours, keep_only=keep, dark=dark())
    show_neurons(
        figure,
        "knockout_figure",
        family,
        neurons,
        "a point of the category",
        frame,
        name=f"knockout-{category}",
        layers=chosen.parameters["layers"],
    )
    st.caption(CAPTION, help=NATS if "nats" in metric(name).title else None)
    known, parts = metric(name), []
    for (model, group), own in rows.groupby(["model", "group"], sort=False):
        parts.append(spread(own).assign(model=model, group=group))
    table = pd.concat(parts, ignore_index=True)
    for column in ("mean", "low", "high"):
        table[column] = table[column].map(known.write)
    table["proportion"], table["neurons"] = table["proportion"].map(style.percent), table["neurons"].round().astype(int)
    columns = ["model", "group", "proportion", "neurons", "mean", "low", "high", "repeats"]
    _table(table[columns[len(models) == 1 :]], ("proportion", "mean", "low", "high"))
    return name


def reading(frame: pd.DataFrame, category: str, *, keep_only: bool = False) -> str:
    """The end of a model's curve in words: what is left, and what is left with random neurons."""
    known = metric(frame["metric"].iloc[0])
    ours, control = (spread(frame[frame["group"] == group]).iloc[-1] for group in (category, RANDOM))
    intact = frame.loc[(frame["group"] == INTACT) if keep_only else (frame["proportion"] == 0), "value"].mean()
    number, group = style.count(ours["neurons"]), verbatim(category)
    done = f"With these {number} {group} neurons alone kept" if keep_only else f"With all {number} {group} neurons off"
    what = verbatim(known.title.partition(", nats")[0])
    return (
        f"{done}, {what} goes from {known.write(intact)} to **{known.write(ours['mean'])}**; "
        f"with as many random neurons {'kept' if keep_only else 'off'}, to **{known.write(control['mean'])}**."
    )


def how_sure(effect: Mapping[str, float], known: Metric, keep_only: bool) -> str:
    """By how much the category matters more than random neurons, or less, in a sentence whose figures say the same."""
    sign = 1 if effect["effect"] >= 0 else -1
    low, high = sorted(sign * effect[end] for end in ("low", "high"))
    unit, worse = " points" if known.share else "", keep_only != (effect["effect"] >= 0)
    here, beyond = ("worse", "better") if worse else ("better", "worse")

    def told(value: float) -> str:
        return f"{known.change(value)[1:]}{unit}"

    ends = f"{told(low)} to {told(high)} {here}" if low >= 0 else f"{told(low)} {beyond} to {told(high)} {here}"
    interval = "" if pd.isna(low) else f"95 % interval: {ends}; "
    verdict = "more than chance" if effect["adjusted"] < LEVEL else "it may be chance"
    return (
        f"Problem by problem the model is **{told(effect['effect'])} {here}** than with random ones "
        f"({interval}adjusted p {effect['adjusted']:.2g}): {verdict}."
    )


def _draw_map(frame: pd.DataFrame, neurons: Mapping[str, Run], family: Family) -> str:
    name = _metric(metrics_of(frame))
    st.markdown(CAPTION_MAP, help=NATS if LOSS in frame["metric"].to_list() else None)
    figure = by_layer(frame, name, dark=dark())
    show_neurons(figure, "knockout_map", family, neurons, "a cell", frame, name="knockout-layers")
    known, rows = metric(LOSS if name == OWN else name), of_metric(frame, name)
    effect = [f"{known.change(e)} ± {known.change(s)[1:]}" for e, s in zip(rows["effect"], rows["stderr"], strict=True)]
    table = rows[["model", "layer", "category", "neurons"]].assign(
        **{
            "intact": rows["intact"].map(known.write),
            "without them": rows["own"].map(known.write),
            "without random": rows["random"].map(known.write),
            "beyond random": effect,
            "p": rows["adjusted"].map("{:.2g}".format),
        }
    )
    _table(table[table.columns[rows["model"].nunique() == 1 :]], tuple(table.columns[4:]))
    return name


def _table(frame: pd.DataFrame, right: tuple[str, ...]) -> None:
    st.dataframe(
        frame,
        hide_index=True,
        column_config={
            "neurons": st.column_config.NumberColumn(format="localized"),
            **dict.fromkeys(right, st.column_config.TextColumn(alignment="right")),
        },
        key="knockout_table",
    )
