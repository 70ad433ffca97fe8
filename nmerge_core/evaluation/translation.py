"""BLEU of Chinese, and by which of sacrebleu's settings translations were scored."""

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api import metrics
from lm_eval.api.registry import register_aggregation
from sacrebleu.metrics import BLEU, CHRF, TER

_BLEU_ZH = "bleu_zh"  # what a task's YAML calls it, as an aggregation


@register_aggregation(_BLEU_ZH)
def bleu_zh(items: Sequence[tuple[Any, Any]]) -> float:
    """Return BLEU of Chinese: sacrebleu's tokeniser `zh` parts its characters, where the default one parts words."""
    references, answers = metrics._sacreformat(*zip(*items, strict=True))
    return float(BLEU(tokenize="zh").corpus_score(answers, references).score)


_MADE: dict[Any, Callable[[], Any]] = {
    metrics.bleu: BLEU,
    bleu_zh: lambda: BLEU(tokenize="zh"),
    metrics.chrf: CHRF,
    metrics.chrfpp: lambda: CHRF(word_order=2),
    metrics.ter: TER,
}


def signature(aggregation: Any, items: Sequence[tuple[Any, Any]]) -> str:
    """Return sacrebleu's signature of how a metric is made of references and answers; empty of one that is not its."""
    make = _MADE.get(aggregation)
    if make is None or not items:
        return ""
    metric = make()
    references, answers = metrics._sacreformat(*zip(*items[:1], strict=True))
    metric.corpus_score(answers, references)  # which counts the references
    return str(metric.get_signature())
