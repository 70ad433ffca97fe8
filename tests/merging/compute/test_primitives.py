import pytest
import torch

from nmerge_core.merging.compute.primitives import (
    combine,
    elect,
    elected_sum,
    trim,
    weighted_sum,
)

# Three models, four entries.
DELTAS = torch.tensor([[1.0, -2.0, 0.5, 0.0], [3.0, 1.0, -0.5, 0.0], [-2.0, -4.0, 0.25, 0.0]])


def test_weighted_sum() -> None:
    # 1·1 + 2·3 − 1·(−2) = 9;  1·(−2) + 2·1 − 1·(−4) = 4;  0.5 − 1 − 0.25 = −0.75
    assert weighted_sum(DELTAS, [1, 2, -1]).tolist() == [9.0, 4.0, -0.75, 0.0]


def test_elect_keeps_the_sign_of_the_sum() -> None:
    # Sums 2, −5, 0.25, 0: the third model disagrees in column 0, the second in columns 1 and 2.
    assert elect(DELTAS)[:, 0].tolist() == [1, 3, 0]
    assert elect(DELTAS)[:, 1].tolist() == [-2, 0, -4]
    assert elect(DELTAS)[:, 2].tolist() == [0.5, 0, 0.25]


@pytest.mark.parametrize(
    ("merge_function", "expected"),
    [
        ("elect_mean", [2.0, -3.0, 0.375, 0.0]),  # (1+3)/2, (−2−4)/2, (0.5+0.25)/2, nothing
        ("elect_sum", [4.0, -6.0, 0.75, 0.0]),
        ("mean", [2 / 3, -5 / 3, 0.25 / 3, 0.0]),  # over the three nonzero entries
        ("sum", [2.0, -5.0, 0.25, 0.0]),
    ],
)
def test_combine(merge_function: str, expected: list[float]) -> None:
    torch.testing.assert_close(combine(DELTAS, merge_function), torch.tensor(expected))


def test_mean_counts_nonzero_entries_only() -> None:
    assert combine(torch.tensor([[3.0], [0.0], [6.0]]), "mean").item() == 4.5


def test_elected_sum_weighs_by_absolute_weight() -> None:
    # Weighted: 2·1, 1·3, −1·(−2) = 2, 3, 2: all agree; Σ|w| = 4, (2 + 3 + 2) / 4 = 1.75.
    assert elected_sum(DELTAS[:, :1], [2, 1, -1], True).item() == 1.75
    assert elected_sum(DELTAS[:, :1], [2, 1, -1], False).item() == 7.0


def test_trim_keeps_ties() -> None:
    delta = torch.tensor([[0.5, -0.5, 0.25, 1.0]])
    # Both entries of magnitude 0.5 are at the threshold.
    assert trim(delta, [0.5]).tolist() == [[0.5, -0.5, 0.0, 1.0]]
