"""Where fine-tunes get in each other's way, against arithmetic by hand and an SVD."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nmerge_core.conflict import interference, singular_interference
from nmerge_core.errors import InputError
from tests.similarity.test_measure import variant
from tests.tiny import tiny_model

UP = "model.layers.1.mlp.up_proj.weight"  # (48, 32)


def naive(deltas: list[np.ndarray]) -> float:
    """TSV-M's measure by numpy's SVD, over the sum of the sizes."""
    count = max(1, min(deltas[0].shape) // len(deltas))
    found = [np.linalg.svd(delta, full_matrices=False) for delta in deltas]
    left = np.concatenate([u[:, :count] for u, _, _ in found], axis=1)
    right = np.concatenate([v[:count].T for _, _, v in found], axis=1)
    sizes = np.concatenate([s[:count] for _, s, _ in found])
    one = np.eye(len(sizes))
    return np.abs((left.T @ left - one) @ np.diag(sizes) @ (right.T @ right - one)).sum() / sizes.sum()


@pytest.mark.parametrize("shape", [(3, 12, 7), (2, 5, 9)])
def test_equals_an_svd_for_tall_and_wide(shape: tuple[int, ...]) -> None:
    deltas = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert singular_interference(deltas)[0] == pytest.approx(naive(list(deltas.numpy())))


def test_equal_changes_have_one_and_changes_apart_none() -> None:
    """Of two equal ones UᵀU − I = VᵀV − I = [[0, I], [I, 0]], and the product [[S, 0], [0, S]] has ‖S‖₁ in all."""
    delta = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert singular_interference(torch.stack([delta, delta]))[0] == pytest.approx(1)
    apart = torch.zeros(2, 6, 4, dtype=torch.float64)
    apart[0, 0, 0], apart[1, 3, 2] = 2.0, -1.0
    assert singular_interference(apart)[0] == pytest.approx(0)
    assert all(map(math.isnan, singular_interference(torch.zeros(2, 6, 4))))


def test_unrelated_changes_interfere_by_chance_alone() -> None:
    deltas = torch.randn(3, 60, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    own, chance = singular_interference(deltas)
    assert own == pytest.approx(chance, rel=0.05) and chance > 2


def test_a_table_by_hand(tmp_path: Path) -> None:
    """Both change one entry the same way and one against each other; one alone changes a third.

    τ_1 = (1, 1, 2), τ_2 = (1, −1, 0): opposite in 1 of the 2 entries that both changed; Σ τ = (2, 0, 2) of 4 + 2 = 6 in
    all, so that 1 − 4/6 = 1/3 is lost; the cosine is (1 − 1) / … = 0.
    """
    base = tiny_model(tmp_path / "base")
    changes = {"math": (1.0, 1.0, 2.0), "code": (1.0, -1.0, 0.0)}

    def changed(name: str) -> str:
        def change(weights: dict[str, torch.Tensor]) -> None:
            weights[UP][0, :3] = torch.tensor(changes[name]) + weights[UP][0, :3]

        return variant(start, tmp_path / name, change)

    def zero(weights: dict[str, torch.Tensor]) -> None:
        weights[UP][0, :3] = 0

    start = variant(base, tmp_path / "start", zero)
    frame = interference(start, [changed("math"), changed("code")]).set_index(["layer", "matrix"])
    assert len(frame) == 2 * 7 and frame.index[-1] == (1, "self_attn.v_proj")
    row = frame.loc[(1, "mlp.up_proj")]
    assert (row["opposed"], row["lost"], row["cosine"]) == pytest.approx((1 / 2, 1 / 3, 0), abs=1e-12)
    # Both are rank one in row 0: UᵀU − I = [[0, ±1], [±1, 0]], and VᵀV − I is off its diagonal the cosine, 0.
    assert row["interference"] == pytest.approx(0, abs=1e-9)
    assert frame.drop(index=[(1, "mlp.up_proj")]).isna().all(axis=None)
    with pytest.raises(InputError, match="expected at least two fine-tunes, .* found 1"):
        interference(start, [start])


def test_weights_that_are_not_finite_are_told_of(tmp_path: Path) -> None:
    """Their matrix read as one in which nothing was changed, or ended in a traceback of its decomposition."""
    base = tiny_model(tmp_path / "base")
    broken = variant(base, tmp_path / "broken", lambda weights: weights[UP].fill_(math.inf))
    with pytest.raises(InputError, match=rf"broken, tensor {UP}: holds NaN or infinite entries"):
        interference(base, [base, broken])
