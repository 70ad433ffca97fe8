"""What tells why a merge went bad, layer by layer, in figures and in a sentence for each measure."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.merge import by_layer

MERGE = "the merge"  # what it is called among its models
OPPOSED, CHANCE, CANCELLED = "opposite signs", "opposite signs by chance", "lost when added up"
_PARTS = {"attention": "attention", "mlp": "MLP"}
_NAMED = 6  # models that a sentence names; of more the least and the most
_FAR = 1.5  # times what unrelated changes added up whole would give: from here on it is told as a fault
_NEAR = 0.05  # times the largest of the models' changes: below it the merge is as good as the base
_LOST = 0.05  # of a model's change: what is less is told as lost
_CONTRADICTING = 0.02  # more opposite signs than by chance
_FEWER, _STRONGER = 0.8, 2.0  # times the models' effective rank, and variance, from which on it is told as a fault

_OURS = "No paper has these thresholds; they are ours."
CHANGE_RULE = (
    f"A warning above {_FAR} times what the models' changes would come to if they had nothing in common, and below "
    f"{100 * _NEAR:.0f} % of the largest of them; else a tick. {_OURS}"
)
KEPT_RULE = f"A warning where less than {100 * _LOST:.0f} % of a model's change is left; else a tick. {_OURS}"
CONTRADICTIONS_RULE = (
    f"A warning where more than {100 * _CONTRADICTING:.0f} points more signs are opposite than by chance; else a tick. "
    f"{_OURS}"
)
SPREAD_RULE = (
    f"A warning below {100 * _FEWER:.0f} % of the directions of the model that has fewest, and above {_STRONGER:g} "
    f"times any model's variance or below 1/{_STRONGER:g} of it; else a tick. {_OURS}"
)


@dataclass(frozen=True)
class Verdict:
    """A measure in a sentence, plain text, and whether it speaks against the merge."""

    sentence: str
    fault: bool


def change(layers: pd.DataFrame, models: pd.DataFrame, colours: Mapping[str, str], *, dark: bool = False) -> go.Figure:
    """Draw how far each part of a layer went from the base, of the merge and of its models.

    Args:
        layers: Columns layer, part, norm (of `resident.health.Changes`).
        models: Columns layer, part, model, norm.
        colours: The colour of each model and of the merge.
        dark: The reader's theme.
    """
    frame = pd.concat([models, layers.assign(model=MERGE)])[["model", "layer", "part", "norm"]]
    return by_layer(frame, "L2 norm of the change", colours, from_zero=True, dark=dark)


def kept(models: pd.DataFrame, colours: Mapping[str, str], *, dark: bool = False) -> go.Figure:
    """Draw the share of each model's change that the merge has; columns layer, part, model, kept."""
    frame = models[["model", "layer", "part", "kept"]].dropna()
    return by_layer(frame, "share kept (1 = all of it)", colours, dark=dark)


def contradictions(layers: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """Draw in how many weights the models contradict each other; columns layer, part, opposed, chance, cancelled."""
    named = {"opposed": OPPOSED, "chance": CHANCE, "cancelled": CANCELLED}
    frame = layers.rename(columns=named).melt(["layer", "part"], list(named.values()), "model", "share").dropna()
    colours = {OPPOSED: style.INTERSECTION, CHANCE: style.RANDOM, CANCELLED: style.INTERSECTION}
    return by_layer(frame[["model", "layer", "part", "share"]], "share", colours, from_zero=True, dark=dark)


def spread(frame: pd.DataFrame, measure: str, colours: Mapping[str, str], *, dark: bool = False) -> go.Figure:
    """Draw the "rank" or the "variance" of hidden states; columns model, layer and the measure."""
    title = {"rank": "effective rank (directions)", "variance": "variance of hidden states"}[measure]
    return by_layer(frame[["model", "layer", measure]].dropna(), title, colours, from_zero=True, dark=dark)


def change_told(layers: pd.DataFrame, models: pd.DataFrame) -> Verdict:
    """Say where the merge goes furthest beyond its models, by frames as of `change`."""
    place = ["layer", "part"]
    largest = models.loc[models.groupby(place)["norm"].idxmax(), [*place, "model", "norm"]]
    unrelated = models.assign(square=models["norm"] ** 2).groupby(place)["square"].sum().pow(0.5).rename("unrelated")
    table = layers.merge(largest, on=place, suffixes=("", "_largest")).merge(unrelated, on=place)
    table = table[table["norm_largest"] > 0]
    if table.empty:
        return Verdict("None of the models changed anything in its layers.", True)
    times = table["norm"] / table["norm_largest"]
    if times.max() < _NEAR:
        said = f"The merge is as good as its base: at most {style.significant(times.max())} times as far from it"
        return Verdict(f"{said} as the furthest of its models.", True)
    far = table["norm"] / table["unrelated"] > _FAR
    row = table.loc[(times[far] if far.any() else times).idxmax()]
    said = (
        f"In the {_PARTS[row['part']]} of layer {row['layer']} the merge is "
        f"{style.significant(row['norm'] / row['norm_largest'])} times as far from the base as {row['model']}, the "
        "furthest of its models there"
    )
    if not far.any():
        most = style.significant(_FAR * row["unrelated"] / row["norm_largest"])
        fine = f"Fine: there up to {most} times, {_FAR} times what changes with nothing in common add up to"
        return Verdict(f"{said}, and nowhere further. {fine}.", False)
    return Verdict(f"{said}: further than all their changes added up, had these nothing in common.", True)


def kept_told(models: pd.DataFrame) -> Verdict:
    """Say how much of each model's whole change the merge has; columns model, norm, kept."""
    square = models["norm"] ** 2
    sums = models.assign(square=square, product=square * models["kept"]).groupby("model", sort=False)
    shares = (sums["product"].sum() / sums["square"].sum()).dropna()
    if shares.empty:
        return Verdict("None of the models changed anything in its layers.", True)
    told = shares if len(shares) <= _NAMED else shares.loc[[shares.idxmin(), shares.idxmax()]]
    said = ", ".join(f"{style.percent(share)} of {model}" for model, share in told.items())
    if len(told) < len(shares):
        said += f", of the {len(shares) - 2} others between these"
    lost, against = shares[shares < _LOST], shares[shares < -_LOST]
    fault = f" It goes against {', '.join(against.index)}." if len(against) else ""
    if len(lost) > len(against):
        fault += f" Next to nothing is left of {', '.join(lost.index.difference(against.index, sort=False))}."
    fine = f" Fine: at least {100 * _LOST:.0f} % of each."
    return Verdict(f"Of what its models changed the merge has {said}.{fault or fine}", bool(fault))


def contradictions_told(layers: pd.DataFrame) -> Verdict:
    """Say how far the models contradict each other, on average over the layers; columns as of `contradictions`."""
    opposed, chance, cancelled = layers[["opposed", "chance", "cancelled"]].mean()
    if pd.isna(opposed):
        return Verdict("No weight was changed by more than one model: they cannot contradict each other.", False)
    said = (
        f"Where several models changed a weight, some raise and others lower it in {style.percent(opposed)} of the "
        f"cases, of signs by chance it would be {style.percent(chance)}; {style.percent(cancelled)} of all change is "
        "lost when it is added up."
    )
    if opposed > chance + _CONTRADICTING:
        return Verdict(said, True)
    return Verdict(f"{said} Fine: {'no' if opposed <= chance else 'hardly'} more than by chance.", False)


def spread_told(frame: pd.DataFrame) -> Verdict:
    """Say whether hidden states of the merge have collapsed or grown beside those of the models.

    Args:
        frame: Columns model, layer, rank, variance, of the merge and of its models.
    """
    own = frame[frame["model"] == MERGE].set_index("layer")
    others = frame[frame["model"] != MERGE].groupby("layer")
    if own[["rank", "variance"]].isna().any(axis=None):
        return Verdict("The merge's hidden states are not finite: lower lambda or the weights.", True)
    fewer = own["rank"] / others["rank"].min()
    layer = fewer.idxmin()
    said = (
        f"The merge's hidden states use at least {style.significant(fewer[layer])} times as many directions as those "
        f"of the model with the fewest: {style.significant(own['rank'][layer])} and "
        f"{style.significant(others['rank'].min()[layer])} at layer {layer}"
    )
    more = (own["variance"] / others["variance"].max()).max()
    less = (own["variance"] / others["variance"].min()).min()
    faults = []
    if fewer[layer] < _FEWER:
        faults.append("they have collapsed, it tells fewer texts apart")
    if more > _STRONGER:
        faults.append(f"they vary {style.significant(more)} times as much as any model's")
    if less < 1 / _STRONGER:
        faults.append(f"they vary only {style.significant(less)} times as much as any model's")
    fine = "" if faults else " Fine: they have not collapsed, and vary about as much as those of its models."
    return Verdict(f"{'; '.join([said, *faults])}.{fine}", bool(faults))
