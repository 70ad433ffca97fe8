"""Cosines of neuron weights between a base and its fine-tunes, and between what any two of these changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nmerge_core.checkpoints import labels
from nmerge_core.progress import Progress, silent
from nmerge_core.similarity.blocks import layers_of, open_alike
from nmerge_core.similarity.sums import Sums, sums_of

Measured = Mapping[str, NDArray[np.float32]]  # of a layer by what is measured, (models or pairs, neurons)


@dataclass(frozen=True)
class Cosines:
    """How neuron weights of fine-tunes stand to a base's, and what they changed to each other.

    Of a neuron's whole vector, that of all its matrices one after the other, θ_0 is the base's and τ = θ − θ_0 what a
    fine-tune changed.

    Attributes:
        summary: model, layer, matrix (gate, up, down; up and down of an MLP without gate), neurons, mean, min, p01,
            p50, zero. `zero` counts the neurons whose vector is zero in either model: they have no cosine and are in
            none of the statistics.
        moved: model, layer, neuron, matrix, cosine of the neurons of lowest cosine per model and matrix, lowest first.
        neurons: model, layer, neuron, cosine, change (‖τ‖ / ‖θ_0‖) and parallel (‖τ∥‖² / ‖τ‖², the share of the change
            along θ_0; the rest is orthogonal to it) of every neuron's whole vector; NaN where a vector is zero, but
            that a change of a zero vector is orthogonal. No rows where a family's neurons are not known.
        between: one, other, layer, neuron, cosine (of the two changes) and opposed (of the weights that both changed,
            the share whose signs are opposite) of every two fine-tunes and neuron; NaN where a change is zero, or none
            was changed by both.
    """

    summary: pd.DataFrame
    moved: pd.DataFrame
    neurons: pd.DataFrame
    between: pd.DataFrame


def cosine(base: str, models: Sequence[str], *, lowest: int = 50, progress: Progress = silent) -> Cosines:
    """Compute cos(w_base, w_ft) of every neuron: row j of gate and up, column j of down, whatever the stored form.

    Layers of a model of several towers are counted through all of them, neurons of a layer through all its experts.
    Where a family's neurons are not known, each matrix in a layer stands under its own name, and its rows for
    neurons (of a model without layers: every matrix).
    Weights are streamed in blocks of rows and accumulated in float64: memory is bounded by blocks and by the tables,
    not by models.

    Args:
        base: the base model.
        models: its fine-tunes.
        lowest: neurons listed in `moved` per model and matrix.
        progress: told of matrices.

    Raises:
        InputError: a model cannot be opened, a matrix of the base is missing or has another shape in a fine-tune, or a
            weight is NaN or infinite.

    Source: NeuronMerge App. A.3, Fig. 8; quantiles and lowest neurons are added. The parallel share is NeuroMerging's
    decomposition of τ (§3), there of each row of a matrix, here of the neuron's whole vector.
    """
    opened = open_alike(base, models)
    layers = layers_of(opened[0])
    done, total = 0, sum(len(layer.matrices) for layer in layers)
    names, summary, moved = labels(models), [], []
    each, mutual = dict[int, Measured](), dict[int, Measured]()
    progress("Cosine similarity", done, total, "matrices")
    for layer in layers:
        whole: Sums | None = None
        for matrix in layer.matrices:
            sums = sums_of(opened, layer, matrix)
            whole = whole.plus(sums) if whole else sums
            for model, cosines in zip(names, sums.cosines, strict=True):
                summary.append({"model": model, "layer": layer.layer, "matrix": matrix, **_statistics(cosines)})
                found_at = np.argsort(cosines, kind="stable")[: min(lowest, np.count_nonzero(~np.isnan(cosines)))]
                moved += [(model, layer.layer, int(neuron), matrix, float(cosines[neuron])) for neuron in found_at]
            done += 1
            progress("Cosine similarity", done, total, "matrices")
        if whole and not opened[0].architecture.unknown:
            each[layer.layer] = _rounded(cosine=whole.cosines, change=whole.changes, parallel=whole.parallel)
            mutual[layer.layer] = _rounded(cosine=whole.between, opposed=whole.opposed)
    ranked = pd.DataFrame(moved, columns=["model", "layer", "neuron", "matrix", "cosine"])
    ranked = ranked.sort_values(["cosine", "layer", "neuron"], kind="stable")
    return Cosines(
        pd.DataFrame(summary),
        ranked.groupby(["model", "matrix"], sort=False).head(lowest).reset_index(drop=True),
        _of_neurons(["model"], [(name,) for name in names], each, ["cosine", "change", "parallel"]),
        _of_neurons(["one", "other"], [*combinations(names, 2)], mutual, ["cosine", "opposed"]),
    )


def _rounded(**measures: NDArray[np.float64]) -> Measured:
    return {measure: values.astype(np.float32) for measure, values in measures.items()}


def _of_neurons(
    keys: Sequence[str], named: Sequence[tuple[str, ...]], found: Mapping[int, Measured], measures: Sequence[str]
) -> pd.DataFrame:
    """Return a row for each layer, entry of `named` and neuron, from `measures` of each layer, (named, neurons)."""
    if not (found and named):
        return pd.DataFrame(columns=[*keys, "layer", "neuron", *measures])
    counts = [own[measures[0]].shape[1] for own in found.values()]
    rows = np.repeat(counts, len(named))  # of each layer and entry
    frame = {}
    for key, names in zip(keys, zip(*named, strict=True), strict=False):
        known = list(dict.fromkeys(names))
        codes = np.tile(np.array([known.index(name) for name in names], np.int16), len(counts))
        frame[key] = pd.Categorical.from_codes(np.repeat(codes, rows), known)
    frame["layer"] = np.repeat(np.array([*found], np.int16), np.array(counts) * len(named))
    frame["neuron"] = np.concatenate([np.tile(np.arange(count, dtype=np.int32), len(named)) for count in counts])
    frame |= {measure: np.concatenate([own[measure].ravel() for own in found.values()]) for measure in measures}
    return pd.DataFrame(frame, copy=False)


def _statistics(cosines: NDArray[np.float64]) -> dict[str, float]:
    known = cosines[~np.isnan(cosines)]
    facts: dict[str, float] = {"neurons": len(cosines)}
    if len(known):
        p01, p50 = np.quantile(known, [0.01, 0.5])
        facts |= {"mean": known.mean(), "min": known.min(), "p01": p01, "p50": p50}
    else:
        facts |= dict.fromkeys(("mean", "min", "p01", "p50"), np.nan)
    return {**facts, "zero": len(cosines) - len(known)}
