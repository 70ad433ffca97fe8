"""What a chance of 1 keeps: density + ε may be that in float32."""

import numpy as np

from nmerge_core.merging.compute.magprune import _prune, chances_by_rank


def test_a_chance_of_1_keeps_an_entry_whatever_is_drawn() -> None:
    chance = chances_by_rank(0.85, 0.15, 40)  # ε < 1 − density, in float64 alone
    assert chance[-1] == 1
    delta, drawn = np.ones(40, np.float32), np.full(40, 2**32 - 1, np.uint32)
    _prune(delta, chance, drawn, False)
    assert not delta[:-1].any() and delta[-1] == 1
