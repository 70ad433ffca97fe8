"""What labels say: how far they agree with the categories by frequency, and how good the explanations are."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from nmerge_core.classification.agreement import Agreement, agreement_of, kappa_interval
from nmerge_core.comparison.paired import Interval, mean_interval, wilson
from nmerge_core.figures.style import percent
from nmerge_core.files.kept_files import read_csv, read_object
from nmerge_core.labelling.shown import HELD_OUT

LABELS = "labels.csv"
NO_ANSWER = "no answer"
_COLUMNS = ("layer", "neuron", "category", "label", "score", "read", "explanation", "excited", "spared")
_NUMBERS = ("score", "excited", "spared")  # which may be missing


@dataclass(frozen=True)
class Labels:
    """What a labeller made of some neurons.

    Attributes:
        table: a row per neuron: layer, neuron, category (by the vote of its texts), label (the labeller's, empty
            without an answer), score (summed relevance), read (excerpts that its answer has a line for), explanation,
            and of the held-out texts excited (of five that excite the neuron, those found) and spared (of five that do
            not, those left), missing where that has no answer.
        meta: by, categories, requests, prompt_tokens, answer_tokens, seconds.
    """

    table: pd.DataFrame
    meta: Mapping[str, Any]

    @property
    def categories(self) -> list[str]:
        """The categories, General first."""
        return list(self.meta["categories"])

    @property
    def unanswered(self) -> int:
        """Neurons without a label."""
        return int((self.table["label"] == "").sum())

    @property
    def counts(self) -> pd.DataFrame:
        """Neurons, a row per category by frequency and a column per label, `no answer` the last."""
        labels = self.table["label"].replace("", NO_ANSWER)
        found = pd.crosstab(self.table["category"], labels)
        return found.reindex(index=self.categories, columns=[*self.categories, NO_ANSWER], fill_value=0)

    @cached_property
    def agreement(self) -> Agreement | None:
        """How far labels are the categories by frequency, of the neurons that have one; None where none has."""
        names = self.categories
        counts = self.counts[names].to_numpy()
        return agreement_of(counts, names) if counts.sum() else None

    @cached_property
    def share_interval(self) -> Interval:
        """The 95 % interval of the share with one category in both, by Wilson."""
        counts = self.counts[self.categories].to_numpy()
        return wilson(int(counts.trace()), int(counts.sum()))

    @cached_property
    def kappa_interval(self) -> Interval:
        """The 95 % interval of κ, by a bootstrap over neurons."""
        return kappa_interval(self.counts[self.categories].to_numpy())

    @property
    def balanced_accuracy(self) -> pd.Series:
        """Of each neuron with an answer about the held-out texts, the mean of the shares that were told rightly.

        (excited + spared) / 10, as there are five of each: 0.5 by chance, whatever number of texts is named.
        """
        return ((self.table["excited"] + self.table["spared"]) / (2 * HELD_OUT)).dropna()

    @cached_property
    def detection_interval(self) -> Interval:
        """The 95 % interval of the mean balanced accuracy, by a bootstrap over neurons."""
        return mean_interval(self.balanced_accuracy)

    def by_category(self) -> pd.DataFrame:
        """Return, per category by frequency: category, neurons, same (label), accuracy (balanced, of detection)."""
        told = self.table.assign(same=self.table["label"] == self.table["category"], accuracy=self.balanced_accuracy)
        found = told.groupby("category").agg(
            neurons=("label", "size"), same=("same", "sum"), accuracy=("accuracy", "mean")
        )
        return found.reindex(self.categories).dropna(subset="neurons").reset_index()


def open_labels(folder: str | Path) -> Labels:
    """Read what a labelling has written; raises Damaged where a file is not as it was written."""
    folder = Path(folder)
    missing = {name: [""] for name in _NUMBERS}
    # Anything may be an explanation, "none" and "NA" too; categories may be numbers.
    texts = dict.fromkeys(("category", "label", "explanation"), "str")
    table = read_csv(folder / LABELS, _COLUMNS, keep_default_na=False, na_values=missing, dtype=texts)
    return Labels(table, read_object(folder / "meta.json", {"by": str, "categories": list}))


def describe(found: Labels) -> list[str]:
    """Say in sentences how far labels agree with frequency, how good explanations are, and what it took."""
    sentences = []
    total = len(found.table)
    if found.agreement is not None:
        share, kappa = found.share_interval, found.kappa_interval
        sentences.append(
            f"{int(found.counts[found.categories].to_numpy().trace()):,} of {total - found.unanswered:,} neurons have "
            f"the category of their texts ({percent(found.agreement.share)}, 95 % interval {percent(share.low)} to "
            f"{percent(share.high)}); Cohen's κ {found.agreement.kappa:.2f} ({kappa.low:.2f} to {kappa.high:.2f})."
        )
    if found.unanswered:
        sentences.append(f"{found.unanswered:,} of {total:,} have no answer that could be read.")
    if len(accuracy := found.balanced_accuracy):
        held = found.detection_interval
        sentences.append(
            f"By its explanation the labeller tells which held-out texts excite a neuron with a balanced accuracy of "
            f"{percent(accuracy.mean())} ({percent(held.low)} to {percent(held.high)}; 50 % is chance), "
            f"{len(accuracy):,} neurons."
        )
    return sentences


def spent(meta: Mapping[str, Any]) -> str:
    """Say what the answers took."""
    return (
        f"{meta['requests']:,} requests, {meta['prompt_tokens']:,} tokens asked and {meta['answer_tokens']:,} "
        f"answered, {meta['seconds']:,.0f} s"
    )
