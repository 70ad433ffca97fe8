"""Which metrics give a problem alone a value, and not only all of a task together."""

from collections.abc import Callable, Mapping
from typing import Any

from lm_eval.api import metrics
from lm_eval.api.metrics import mean

from nmerge_core.evaluation.translation import bleu_zh

# How a metric is made of its problems, the best liked first, where one problem alone has a score too. A mean of
# perplexities is mostly that of its worst text.
OF_ONE = (
    mean,
    metrics.bits_per_byte,
    metrics.chrf,
    metrics.chrfpp,
    metrics.bleu,
    bleu_zh,
    metrics.ter,
    metrics.weighted_perplexity,
    metrics.perplexity,
)


def best_liked(aggregations: Mapping[str, Callable[[list[Any]], float]]) -> str | None:
    """Return the metric whose problems have values of their own that are best compared; None where there is none."""
    known = {metric: OF_ONE.index(made) for metric, made in aggregations.items() if made in OF_ONE}
    return min(known, key=known.__getitem__) if known else None
