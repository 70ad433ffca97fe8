"""The reduction of φ to a score, against torch's own maximum and numbers by hand."""

import pytest
import torch

from nmerge_core.activations.largest import largest
from nmerge_core.activations.write import best_exemplars


def test_by_hand():
    phi = torch.tensor(
        [[[1.0, 0.0], [-3.0, 0.0], [3.0, 0.0], [9.0, 9.0]], [[2.0, -5.0], [-7.0, 1.0], [0.0, 0.0], [8.0, 8.0]]]
    )
    values, tokens = largest(phi, torch.tensor([0, 1]), torch.tensor([3, 2]))
    # Text 0 has tokens 0 to 2: |−3| comes before |3|, and of zeros the first counts; text 1 has token 1 alone.
    assert values.tolist() == [[3.0, 0.0], [7.0, 1.0]] and tokens.tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_as_torch_finds_it(dtype):
    chance = torch.Generator().manual_seed(0)
    phi = torch.randn(5, 9, 33, generator=chance).mul(4).round().div(4).to(dtype)  # with many of equal size
    first, lengths = torch.tensor([0, 1, 0, 1, 0]), torch.tensor([9, 4, 1, 9, 6])
    values, tokens = largest(phi, first, lengths)
    for text, (start, end) in enumerate(zip(first, lengths, strict=True)):
        expected = phi[text, start:end].abs()  # (T, d_ffn)
        assert values.dtype == dtype and torch.equal(values[text], expected.amax(0))
        firsts = (expected == expected.amax(0)).int().argmax(0) + start
        assert torch.equal(tokens[text], firsts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_so(dtype, wrong):
    phi = torch.ones(1, 3, 2, dtype=dtype)
    phi[0, 1, 0] = wrong
    values, _ = largest(phi, torch.tensor([0]), torch.tensor([3]))
    assert values.isfinite().tolist() == [[False, True]]


def test_the_best_exemplars_are_those_of_a_stable_sort():
    scores = (
        torch.rand(40, 7, generator=torch.Generator().manual_seed(1)).mul(8).round().div(8)
    )  # equal ones, and zeros
    for k in (3, 40, 50):
        expected = scores.T.sort(dim=1, descending=True, stable=True).indices[:, :k]
        assert torch.equal(best_exemplars(scores, k), expected)
    half = scores.bfloat16()
    assert torch.equal(best_exemplars(half, 3), half.float().T.sort(dim=1, descending=True, stable=True).indices[:, :3])
