"""Which neurons are off: shares of a category, nested and drawn anew for each repeat, and as many random ones."""

import numpy as np

from nmerge_core.ablation.conditions import RANDOM, draws, everyone, key_of, others

MEMBERS = {1: np.array([3, 5, 8, 13, 21, 34, 40, 41, 42, 43]), 4: np.array([0, 7])}
SIZES = {1: 10, 4: 2}
POOL = everyone({1: 48, 4: 9})
SHARES = [0.2, 0.4, 0.6, 0.8, 1.0]


def test_sizes_of_draws() -> None:
    """10 neurons in layer 1 and 2 in layer 4: 25 % is round(2.5) = 2 and round(0.5) = 0, 80 % is 8 and 2."""
    found = list(draws(RANDOM, POOL, SIZES, [0.25, 0.8, 1.0], [7, 8]))
    assert [(draw.group, draw.proportion, draw.seed) for draw in found] == [
        ("random", share, seed) for seed in (7, 8) for share in (0.25, 0.8, 1.0)
    ]
    assert [draw.size for draw in found] == [2, 10, 12] * 2
    assert [len(draw.neurons[4]) for draw in found] == [0, 2, 2] * 2


def test_the_whole_category_is_one_draw_and_its_shares_differ_by_the_seed() -> None:
    found = list(draws("code", MEMBERS, SIZES, [0.6, 1.0], [0, 1, 2]))
    assert [(draw.proportion, draw.seed) for draw in found] == [(0.6, 0), (1.0, 0), (0.6, 1), (0.6, 2)]
    assert all(np.array_equal(found[1].neurons[layer], MEMBERS[layer]) for layer in MEMBERS)
    assert len({key_of(draw.neurons) for draw in found}) == 4


def test_larger_shares_contain_the_smaller_ones_of_their_seed() -> None:
    for group, pool in (("code", MEMBERS), (RANDOM, POOL)):
        found = list(draws(group, pool, SIZES, SHARES, [0, 1, 2]))
        for before, after in zip(found, found[1:], strict=False):
            if before.seed == after.seed:
                assert all(set(before.neurons[layer]) <= set(after.neurons[layer]) for layer in MEMBERS)


def test_random_neurons_are_drawn_from_the_whole_layer_by_the_seed() -> None:
    found = list(draws(RANDOM, POOL, SIZES, [1.0], range(200)))
    drawn = [draw.neurons[1] for draw in found]
    assert all(len(set(indices)) == 10 and indices.max() < 48 for indices in drawn)
    assert len({tuple(indices) for indices in drawn}) == 200
    counts = np.bincount(np.concatenate(drawn), minlength=48)
    assert counts.min() > 15  # 200 · 10 / 48 ≈ 42 expected, ± 5.7
    assert {neuron for draw in found for neuron in draw.neurons[4]} == set(range(9))  # of its own layer, fewer
    again = list(draws(RANDOM, POOL, SIZES, [1.0], range(200)))
    assert all(np.array_equal(a.neurons[1], b.neurons[1]) for a, b in zip(found, again, strict=True))


def test_all_others_are_off_where_a_category_is_kept() -> None:
    """Of layer 4 with neurons 0 to 8 all but 0 and 7; of layer 5, where the category has none, all."""
    found = others(everyone({4: 9, 5: 2}), {4: np.array([0, 7])})
    assert {layer: own.tolist() for layer, own in found.items()} == {4: [1, 2, 3, 4, 5, 6, 8], 5: [0, 1]}


def test_sets_are_told_apart_by_their_neurons_alone() -> None:
    assert key_of({1: np.array([2, 3]), 4: np.array([], np.int64)}) == key_of({1: np.array([2, 3])})
    assert key_of({1: np.array([2, 3])}) != key_of({2: np.array([2, 3])})
