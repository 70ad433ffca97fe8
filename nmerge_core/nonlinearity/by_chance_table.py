"""Groups of neurons beside random groups and beside all neurons of a layer, with intervals over texts and draws."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nmerge_core.comparison.against_draws import against_draws
from nmerge_core.comparison.paired import Z_95, holm, standard_error

_COLUMNS = (
    "model", "layer", "group", "neurons", "value", "low", "high", "quadratic", "bend", "random", "random_low",
    "random_high", "difference", "difference_low", "difference_high", "p", "whole", "whole_quadratic", "against_whole",
    "against_whole_low", "against_whole_high", "texts", "draws",
)  # fmt: skip


@dataclass(frozen=True)
class Values:
    """A fine-tune's non-linearity in one layer, by text.

    Attributes:
        sizes: neurons of each group, in order.
        each: (3, 1 + draws, groups + 1, texts): of the error, of its quadratic term and of the bend; by function and by
            each draw; of each group and of all neurons. NaN where the fine-tune does not change f at any token.
    """

    sizes: Mapping[str, int]
    each: NDArray[np.float64]


def table(found: Mapping[str, Mapping[int, Values]]) -> pd.DataFrame:
    """Tell how far groups are from linear, beside random groups and all neurons of their layer.

    Args:
        found: by fine-tune and layer.

    Returns:
        model; layer, NaN for the mean over all; group, "" for all groups by their sizes; neurons;
        value, low, high: its non-linearity with the interval over texts; quadratic, bend: of its two parts;
        random, random_low, random_high: the mean over random groupings, the least and the largest;
        difference, difference_low, difference_high, p, adjusted: value less random, by the spread over texts and over
        groupings, and p by Holm: of layers, or of the means over all; of all groups together, or of single ones;
        whole, whole_quadratic: of all neurons of the layer; against_whole, against_whole_low, against_whole_high: value
        less whole, over texts; texts, draws.
    """
    rows = []
    for model, layers in found.items():
        groups = [group for layer, values in layers.items() for group in _groups(layer, values)]
        names = dict.fromkeys(group.name for group in groups)
        every = [_over_layers([group for group in groups if group.name == name]) for name in names]
        rows += [{"model": model} | _row(group) for group in [*groups, *every]]
    frame = pd.DataFrame(rows, columns=_COLUMNS)  # of fine-tunes that change nothing no row has a value
    compared = [frame["layer"].isna(), frame["group"] == ""]
    return frame.assign(adjusted=frame.groupby(compared)["p"].transform(lambda own: holm(list(own))))


@dataclass(frozen=True)
class _Group:
    layer: float
    name: str
    neurons: int
    own: NDArray[np.float64]  # (3, 1 + draws, texts)
    whole: NDArray[np.float64]  # (3, texts), of all neurons of the layer


def _groups(layer: int, values: Values) -> list[_Group]:
    """Return all groups of a layer by their sizes, and each."""
    each, whole = values.each[:, :, :-1], values.each[:, 0, -1]
    sizes = np.array([*values.sizes.values()])
    together = np.einsum("mdgt,g->mdt", each, sizes / sizes.sum())
    return [
        _Group(layer, "", int(sizes.sum()), together, whole),
        *(_Group(layer, name, size, each[:, :, g], whole) for g, (name, size) in enumerate(values.sizes.items())),
    ]


def _over_layers(groups: Sequence[_Group]) -> _Group:
    """Return the mean of the layers that have a value, by text."""
    own, whole = (_mean(np.stack(each)) for each in zip(*((group.own, group.whole) for group in groups), strict=True))
    return _Group(math.nan, groups[0].name, sum(group.neurons for group in groups), own, whole)


def _mean(layers: NDArray[np.float64]) -> NDArray[np.float64]:
    there = np.isfinite(layers)
    count = there.sum(0)
    return np.divide(np.where(there, layers, 0.0).sum(0), count, out=np.full(count.shape, np.nan), where=count > 0)


def _row(group: _Group) -> dict[str, Any]:
    """Compare a group with random ones and with all neurons, on the texts where all have a value."""
    texts = np.isfinite(group.own).all((0, 1)) & np.isfinite(group.whole).all(0)
    own, whole = group.own[..., texts], group.whole[..., texts]
    known = {"layer": group.layer, "group": group.name, "neurons": group.neurons, "texts": own.shape[-1]}
    values, random = own[0, :1], own[0, 1:]  # (1, texts), (draws, texts)
    if len(values[0]) < 2:
        return known | {"draws": len(random), "p": 1.0}
    value, half, means = float(values.mean()), Z_95 * standard_error(values[0]), random.mean(1)
    chance, against = against_draws(values, random), against_draws(values, whole[:1])
    return known | {
        "draws": len(random),
        "value": value,
        "low": value - half,
        "high": value + half,
        "quadratic": float(own[1, 0].mean()),
        "bend": float(own[2, 0].mean()),
        "random": float(means.mean()),
        "random_low": float(means.min()),
        "random_high": float(means.max()),
        "difference": chance.difference,
        "difference_low": chance.low,
        "difference_high": chance.high,
        "p": chance.p,
        "whole": float(whole[0].mean()),
        "whole_quadratic": float(whole[1].mean()),
        "against_whole": against.difference,
        "against_whole_low": against.low,
        "against_whole_high": against.high,
    }
