"""Tables of what a merge has of its fine-tunes: of one neuron, and of all neurons of a category."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class NeuronChanges:
    """What T fine-tunes and M merges changed in one neuron whose weights in the base are θ_0.

    Attributes:
        sizes: ‖τ‖₂ / ‖θ_0‖₂ of each, (T + M,), the fine-tunes first; not finite where θ_0 = 0.
        turned: cos(θ_0, θ) of each, (T + M,); NaN where either is 0.
        parallel: ‖τ∥‖² / ‖τ‖² of each with τ∥ its part along θ_0, (T + M,); NaN where τ or θ_0 is 0.
        cosines: of every two changes, (T + M, T + M); NaN where either is 0.
        opposed: of the weights that both of every two changed, the share that they moved opposite ways, (T + M, T + M);
            NaN where there are none.
        kept: ⟨Δ, τ_t⟩ / ‖τ_t‖₂², what each merge has of each fine-tune's change, (M, T); NaN where that is 0.
    """

    sizes: Numbers
    turned: Numbers
    parallel: Numbers
    cosines: Numbers
    opposed: Numbers
    kept: Numbers

    def table(self, models: Sequence[str], merges: Sequence[str]) -> pd.DataFrame:
        """Return merge, model, kept, cosine, change and merge_change (relative to θ_0), by what the models are called.

        A row for each merge and fine-tune.
        """
        tunes = len(models)
        rows = [
            (merge, model, self.kept[m, t], self.cosines[tunes + m, t], self.sizes[t], self.sizes[tunes + m])
            for m, merge in enumerate(merges)
            for t, model in enumerate(models)
        ]
        return pd.DataFrame(rows, columns=["merge", "model", "kept", "cosine", "change", "merge_change"])

    def own(self, models: Sequence[str]) -> pd.DataFrame:
        """Return model, cosine (with θ_0), change (relative to θ_0) and parallel of each, by what all are called."""
        return pd.DataFrame(
            {"model": list(models), "cosine": self.turned, "change": self.sizes, "parallel": self.parallel}
        )

    def between(self, models: Sequence[str]) -> pd.DataFrame:
        """Return one, other, cosine and opposed of every two fine-tunes' changes, those most apart first."""
        rows = [
            (models[one], models[other], self.cosines[one, other], self.opposed[one, other])
            for one, other in combinations(range(len(models)), 2)
        ]
        found = pd.DataFrame(rows, columns=["one", "other", "cosine", "opposed"])
        return found.sort_values("cosine", kind="stable", ignore_index=True)


def share(part: Numbers, whole: Numbers) -> Numbers:
    """Divide; NaN where there is no whole."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def became(before: pd.DataFrame, after: pd.DataFrame, categories: Sequence[str]) -> pd.DataFrame:
    """Count in which category of one model the neurons of each category of another ended up.

    Args:
        before: layer, neuron, category of the other.
        after: the same of the one.
        categories: all of them, in the order wanted.

    Returns:
        before, after, neurons, share (of those of `before`; NaN where there are none), every pair of categories.
    """
    both = before.merge(after, on=["layer", "neuron"], suffixes=("_before", "_after"))
    counts = both.groupby(["category_before", "category_after"]).size()
    pairs = pd.MultiIndex.from_product([categories, categories], names=["before", "after"])
    found = counts.reindex(pairs, fill_value=0).rename("neurons").reset_index()
    whole = found.groupby("before")["neurons"].transform("sum")
    return found.assign(share=share(found["neurons"].to_numpy(float), whole.to_numpy(float)))


def kept_by(changes: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    """Tell the share of each fine-tune's change that a merge has in the neurons of each group, taken together.

    It is Σ ⟨Δ, τ_t⟩ / Σ ‖τ_t‖², the mean of the neurons' own shares, each weighted by ‖τ_t‖²: a neuron that a fine-tune
    hardly changed hardly counts.

    Args:
        changes: a row for each neuron and model: model, change and kept, as `inherited` gives, and the groups.
        groups: the columns that tell groups apart, beside the model.

    Returns:
        `groups`, model, neurons, kept.
    """
    square = changes["change"].astype(float) ** 2
    frame = changes.assign(square=square, product=square * changes["kept"].fillna(0.0))
    sums = frame.groupby([*groups, "model"], sort=False)[["square", "product"]].agg(["sum", "size"])
    kept = share(sums["product", "sum"].to_numpy(), sums["square", "sum"].to_numpy())
    return pd.DataFrame({"neurons": sums["square", "size"], "kept": kept}).reset_index()


def with_categories(changes: pd.DataFrame, neurons: pd.DataFrame, categories: Sequence[str]) -> pd.DataFrame:
    """Return `changes` with the category of each neuron, from layer, neuron and category, in the categories' order."""
    found = changes.merge(neurons[["layer", "neuron", "category"]], on=["layer", "neuron"])
    return found.sort_values("category", key=lambda column: column.map(list(categories).index), kind="stable")
