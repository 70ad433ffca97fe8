"""Rows merged by factors of their own: against sums that are written out."""

import numpy as np
import pytest
import torch

from nmerge_core.checkpoints.raw_bits import bits_of
from nmerge_core.merging.compute.kernels import CHUNK
from nmerge_core.merging.compute.neurons import merge_by_factors, products, products_of

THRESHOLDS = np.array([0.5, 0.0], np.float32)


def drawn(columns: int, dtype: torch.dtype) -> tuple[np.ndarray, torch.Tensor]:
    """Three rows of a base and two models: as they are stored, and w, m_1, m_2 (3, rows, columns) in float32."""
    values = torch.randn(3, 3, columns, generator=torch.Generator().manual_seed(columns)).to(dtype)
    deltas = values[1:].float() - values[0].float()
    kept = torch.where(deltas.abs() >= torch.from_numpy(THRESHOLDS)[:, None, None], deltas, 0.0)
    stored = bits_of(values.flatten(1)).view(np.uint16 if dtype == torch.bfloat16 else np.uint32)
    return stored, torch.cat([values[:1].float(), kept])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("columns", [1, 63, 64, CHUNK + 100])
def test_products_are_those_of_every_two_vectors(columns: int, dtype: torch.dtype) -> None:
    stored, vectors = drawn(columns, dtype)
    found, again = np.empty((3, 3, 3)), np.empty((3, 3, 3))
    assert products(stored, True, columns, THRESHOLDS, found)
    expected = torch.einsum("arc,brc->rab", vectors.double(), vectors.double()).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    products_of(vectors.numpy(), again)
    assert (found == again).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("columns", [1, CHUNK + 100])
def test_rows_are_sums_by_their_factors(columns: int, dtype: torch.dtype) -> None:
    stored, (base, *deltas) = drawn(columns, dtype)
    factors = np.array([[0.5, 2.0, -1.0], [0.0, 0.0, 0.0], [-1.0, 1.0, 1.0]], np.float32)
    merged = np.empty(3 * columns, np.uint32)
    assert merge_by_factors(stored, columns, THRESHOLDS, factors, merged)
    of_base, *of_deltas = torch.from_numpy(factors).T.unsqueeze(2)
    total = sum(delta * factor for delta, factor in zip(deltas, of_deltas, strict=True)) + base * of_base + base
    assert torch.equal(torch.from_numpy(merged.view(np.float32)).view(3, columns), total)


def test_an_entry_that_is_not_finite_is_seen() -> None:
    stored, _ = drawn(70, torch.float32)
    stored[2, 137] = 0x7F800000
    assert not products(stored, True, 70, THRESHOLDS, np.empty((3, 3, 3)))
    assert not merge_by_factors(stored, 70, THRESHOLDS, np.zeros((3, 3), np.float32), np.empty(210, np.uint32))
