"""Shares of neurons by chance, against a vote in plain loops."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nmerge_core.classification.random_labels import by_chance


def of(ids: Any, labels: Any) -> Any:
    """A classification of one layer: the best exemplars (neurons, K) and the category of each exemplar."""
    return SimpleNamespace(
        layers=(0,),
        widths={0: len(ids)},
        categories=("general", "math", "code"),
        exemplar_categories=np.array(labels),
        meta={"top_k": 3, "margin": 1},
        top=lambda layer, k: (np.array(ids)[:, :k], None),
    )


def test_agrees_with_plain_loops():
    chance = np.random.default_rng(7)
    labels = [0, 1, 2] * 4
    base, tuned = (np.array([chance.permutation(12)[:5] for _ in range(40)]) for _ in range(2))
    tuned[:20] = base[:20]
    found = by_chance([of(base, labels), of(tuned, labels)], draws=2, seed=3)
    shuffles = np.random.default_rng(3)
    general = kept = 0
    for _ in range(2):
        mixed = shuffles.permutation(labels)

        def vote(ids: Any, mixed: Any = mixed) -> int:
            (first, most), *rest = Counter(int(mixed[each]) for each in ids[:3]).most_common()
            return first if not rest or most > rest[0][1] else 0

        votes = [[vote(ids) for ids in model] for model in (base, tuned)]
        general += votes[0].count(0)
        kept += sum(a == b for a, b in zip(*votes, strict=True))
    assert (found.general, found.kept) == pytest.approx((general / 80, kept / 80))


def test_neurons_that_react_to_the_same_texts_keep_any_category():
    ids = [[0, 1, 2], [3, 4, 5]]
    assert by_chance([of(ids, [0, 1, 2, 0, 1, 2]), of(ids, [0, 1, 2, 0, 1, 2])]).kept == 1.0
    assert by_chance([of(ids, [0] * 6)]).general == 1.0  # there is no other category
