"""What a language model would call neurons, and what that returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from nmerge_core.face.calls import Reference, do
from nmerge_core.face.results import Result
from nmerge_core.parameters.settings import ANSWER_TOKENS, DEVICE, EACH_CATEGORY, NEURONS_LABELLED, SEED

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from nmerge_core.classification.agreement import Agreement
    from nmerge_core.labelling.tables import Labels


@dataclass(frozen=True)
class Labelled(Result):
    """What a labeller called neurons, beside the categories that they have by the vote of their texts."""

    @cached_property
    def labels(self) -> Labels:
        """All that follows from the table: agreement and detection, each with its interval."""
        from nmerge_core.labelling.tables import open_labels

        return open_labels(self.path)

    @property
    def table(self) -> pd.DataFrame:
        """Columns layer, neuron, category, label, score, read, explanation, excited, spared (`Labels` says what)."""
        return self.labels.table

    @property
    def counts(self) -> pd.DataFrame:
        """Neurons, a row per category and a column per label, those without an answer the last."""
        return self.labels.counts

    @property
    def agreement(self) -> Agreement | None:
        """How far labels are the categories, of the neurons with an answer; None where no answer could be read."""
        return self.labels.agreement

    @cached_property
    def asked(self) -> pd.DataFrame:
        """Every question: layer, neuron, about, prompt, answer, prompt_tokens, answer_tokens, seconds."""
        from nmerge_core.labelling.asked import read_asked

        return pd.DataFrame([vars(each) for each in read_asked(self.path)])

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Draw how many neurons of each category have which label (NeuronMerge Fig. 10)."""
        from nmerge_core.figures.labels import agreement_matrix

        return agreement_matrix(self.counts, dark=dark)


def label(
    model: Reference,
    neurons: Reference,
    by: Reference,
    *,
    count: int = NEURONS_LABELLED.default,
    each_category: bool = EACH_CATEGORY.default,
    lists: Mapping[str, Any] | None = None,
    seed: int = SEED.default,
    key_from: str | None = None,
    answer_tokens: int = ANSWER_TOKENS.default,
    device: str = DEVICE.default,
    progress: bool = True,
) -> Labelled:
    """Ask a language model for a category and an explanation of neurons (NeuronMerge App. D.4).

    Args:
        model: the model that was classified.
        neurons: what `classify` gave for it.
        by: a chat model's folder or Hub id; or NAME@URL of an OpenAI-compatible endpoint, to which excerpts of the
            corpus's texts are sent then.
        count: neurons that are drawn.
        each_category: draw as many of each category, and not at random of all.
        lists: lists of neurons in place of a draw, by name, [[layer, neuron], …] or a CSV or JSON file of them.
        seed: decides every draw.
        key_from: the environment variable with the endpoint's key, whose name ends in _API_KEY.
        answer_tokens: the longest answer.
        device: "auto", "cpu", "cuda:1", ….
        progress: whether it is shown.

    Raises:
        InputError: the classification is of another model, or the labeller cannot be asked.
    """
    given: dict[str, Any] = {"model": model, "neurons": neurons, "by": by, "lists": lists, "key_from": key_from}
    given |= {"count": count, "each_category": each_category, "seed": seed}
    return Labelled(do("label", progress, **given, answer_tokens=answer_tokens, device=device).results)
