"""The methods that mergekit brought, by hand and against naive references; mergekit's own values are in `mergekit/`."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nmerge_core.errors import InputError
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.drop import Drop
from nmerge_core.merging.compute.inner_products import slerp
from nmerge_core.merging.compute.magprune import chances
from nmerge_core.merging.compute.primitives import random_bits
from nmerge_core.merging.methods.breadcrumbs import _ranks
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.registry import methods
from tests.merging import checkpoints
from tests.merging.merged import assert_same, deltas, run


def merged(name: str, deltas: Any, base: Any = None, **chosen: Any) -> list[list[float]]:
    """Merge the deltas of one matrix, (T, rows, columns), as a block that is the whole of it."""
    found, deltas = methods()[name], torch.tensor(deltas)
    base = torch.zeros(deltas.shape[1:]) if base is None else torch.tensor(base)
    each = {p.name: chosen.get(p.name, (p.default,) * len(deltas)) for p in found.parameters if p.per_model}
    shared = {p.name: chosen.get(p.name, p.default) for p in found.parameters if not p.per_model} | {"seed": 0}
    held = torch.cat([base[None], deltas]).flatten(1).double()
    facts = SimpleNamespace(inner_products=lambda: {"w": (held @ held.T).numpy()})
    values: Any = SimpleNamespace(shared=shared, each=each)
    prepared = found.prepare(facts, values) if found.prepare else Prepared()
    block = Block("w", base, deltas, 0, len(base), True, 0, "mlp", 0.0, None)
    merged: torch.Tensor = found.merge(block, values, prepared)
    return merged.tolist()


def test_half_way_on_a_quarter_circle() -> None:
    """(1, 0) and (0, 1): both by sin 45° / sin 90° = √½; a third of the way by sin 60° = √¾ and sin 30° = ½."""
    assert slerp(0.5, 1, 1, 0) == pytest.approx((math.sqrt(0.5), math.sqrt(0.5)))
    assert slerp(1 / 3, 1, 1, 0) == pytest.approx((math.sqrt(0.75), 0.5))
    assert slerp(0.3, 4, 9, 6) == (0.7, 0.3)  # along one line
    assert slerp(0.3, 1, 1, 0.9996, straight=0.9995) == (0.7, 0.3)
    assert slerp(0.5, 0, 1, 0) == pytest.approx((math.sqrt(0.5), math.sqrt(0.5)))  # of nothing to something


def test_slerp_and_nuslerp_by_hand() -> None:
    """θ0 = (1, 0), θ1 = (0, 1) = θ0 + (−1, 1): half way is (√½, √½)."""
    half = math.sqrt(0.5)
    found = merged("slerp", [[[-1.0, 1.0]]], [[1.0, 0.0]], t=0.5)
    np.testing.assert_allclose(found, [[half - 1, half]], atol=1e-7)
    # Weights 1 and 2 are t = 2/3: sin 30° of the first, sin 60° of the second.
    turned = [[0.5, math.sqrt(0.75)]]
    x, y = [[1.0, 0.0]], [[0.0, 1.0]]
    np.testing.assert_allclose(merged("nuslerp", [x, y], weight=(1.0, 2.0)), turned, atol=1e-7)
    by_row = merged("nuslerp", [x + x, y + x], weight=(1.0, 2.0), nuslerp_flatten=False)
    np.testing.assert_allclose(by_row, [*turned, [1.0, 0.0]], atol=1e-6)
    columns = {"nuslerp_flatten": False, "nuslerp_row_wise": True}
    # The columns are (1, 1) and (0, 0) of the first, (0, 1) and (1, 0) of the second: 45° apart, and nothing to (1, 0).
    found = merged("nuslerp", [[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]], **columns)
    part = math.sin(math.pi / 8) / math.sin(math.pi / 4)
    np.testing.assert_allclose(found, [[part, half], [2 * part, 0.0]], atol=1e-6)
    assert merged("nuslerp", [x, x], weight=(1.0, -1.0)) == x  # weights that cancel are equal ones


def test_multislerp_merges_directions_and_lengths_apart() -> None:
    """(2, 0) and (0, 4): u = ½ (1, 1), of mean length 3 that is 3 (√½, √½); (1, 0) and (−1, 0) balance: their mean."""
    np.testing.assert_allclose(
        merged("multislerp", [[[2.0, 0.0]], [[0.0, 4.0]]]), [[3 * math.sqrt(0.5)] * 2], atol=1e-6
    )
    balanced = merged("multislerp", [[[1.0, 0.0]], [[-3.0, 0.0]]])
    np.testing.assert_allclose(balanced, [[-1.0, 0.0]], atol=1e-7)
    assert merged("multislerp", [[[1.0, 2.0]]], weight=(0.5,)) == [[1.0, 2.0]]
    assert merged("multislerp", [[[0.0, 0.0]]] * 3) == [[0.0, 0.0]]


def test_the_karcher_mean_balances_the_arcs() -> None:
    """Of (2, 0) and (0, 4) half way, of mean length 3; of three the arcs from the mean sum to nothing."""
    np.testing.assert_allclose(merged("karcher", [[[2.0, 0.0]], [[0.0, 4.0]]]), [[3 * math.sqrt(0.5)] * 2], atol=1e-6)
    points = torch.randn(3, 1, 5, generator=torch.Generator().manual_seed(3))
    mean = torch.tensor(merged("karcher", points.tolist(), max_iter=50, tol=1e-9)).flatten().double()
    units = torch.nn.functional.normalize(points[:, 0].double(), dim=1)
    assert mean.norm().item() == pytest.approx(points[:, 0].norm(dim=1).mean().item(), rel=1e-6)
    unit = mean / mean.norm()
    arcs = [torch.arccos(u @ unit) * torch.nn.functional.normalize(u - (u @ unit) * unit, dim=0) for u in units]
    np.testing.assert_allclose(torch.stack(arcs).sum(0).numpy(), np.zeros(5), atol=1e-6)
    assert merged("karcher", [[[0.0, 0.0]], [[3.0, 4.0]]]) == [[pytest.approx(1.5), pytest.approx(2.0)]]
    opposite = merged("karcher", [[[1.0, 0.0]], [[-1.0, 0.0]]])  # no mean direction: it starts at the first, and stays
    np.testing.assert_allclose(opposite, [[1.0, 0.0]], atol=1e-6)
    assert merged("karcher", [[[3.0, 4.0]]] * 2, tol=0) == [[pytest.approx(3.0), pytest.approx(4.0)]]  # a step of 0
    np.testing.assert_allclose(merged("karcher", [[[1.0, 0.0]], [[-1.0, 0.0]]], tol=0), [[1.0, 0.0]], atol=1e-6)


def test_model_stock_goes_as_far_as_changes_agree() -> None:
    """At right angles r = 0; of equal ones 2/(1 + 1) = 1; at 60° 2 · ½ / (1 + ½) = 2/3, by neuron each its own."""
    x, y, turned = [1.0, 0.0], [0.0, 1.0], [0.5, math.sqrt(0.75)]
    assert merged("model_stock", [[x], [y]]) == [[0.0, 0.0]]
    assert merged("model_stock", [[x], [x]]) == [x]
    expected = [[1.5 / 2 * 2 / 3, math.sqrt(0.75) / 2 * 2 / 3]]
    np.testing.assert_allclose(merged("model_stock", [[x], [turned]]), expected, atol=1e-6)
    by_neuron = merged("model_stock", [[x, x], [turned, y]], filter_wise=True)
    np.testing.assert_allclose(by_neuron, [*expected, [0.0, 0.0]], atol=1e-6)
    assert merged("model_stock", [[x], [[-1.0, 0.0]]]) == [[0.0, 0.0]]  # 1 + cos θ = 0


@pytest.mark.parametrize("method", ["slerp", "karcher", "multislerp", "model_stock"])
def test_compiled_loops_and_torch_write_the_same_bytes(family: SimpleNamespace, tmp_path: Path, method: str) -> None:
    parameters = {"filter_wise": True} if method == "model_stock" else {}
    recipe = {"merge_method": method, "base_model": family.base, "parameters": parameters}
    recipe["models"] = checkpoints.entries(method, family.models)
    for device in ("cpu", "cpu:0"):  # the second is not known to be the CPU
        merge(load_recipe(recipe), tmp_path / device, device=device)
    files = [tmp_path / device / "model.safetensors" for device in ("cpu", "cpu:0")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_nearswap_and_ram_by_hand() -> None:
    np.testing.assert_allclose(merged("nearswap", [[[0.3, -0.3, 0.05]]], t=0.1), [[0.1, -0.1, 0.05]])
    # Of the first entry both changes count, of the second one, of the third none.
    found = merged("ram", [[[1.0, 2.0, 0.1]], [[3.0, 0.1, -0.1]]], epsilon=0.1)
    np.testing.assert_allclose(found, [[2.0, 2.0, 0.0]])


@pytest.mark.parametrize(
    ("density", "gamma", "kept"),
    [(0.5, 0.1, (2, 6)), (0.5, 0.0, (1, 5)), (0.9, 0.3, (2, 10)), (1.0, 0.1, (1, 10)), (0.3, 0.9, (8, 10))],
)
def test_which_ranks_of_ten_breadcrumbs_keep(density: float, gamma: float, kept: tuple[int, int]) -> None:
    """⌊10 γ⌋ of the largest are left out, then ⌊10 · density⌋ kept; where both do not fit fewer are left out."""
    assert _ranks(10, density, gamma) == kept


def test_breadcrumbs_keep_a_band_of_each_tensor(family: SimpleNamespace, tmp_path: Path) -> None:
    def delta(name: str, tau: torch.Tensor) -> torch.Tensor:
        flat = tau.flatten(1)
        order = flat.abs().argsort(1, descending=True)
        largest, kept = (int(round(share * flat.shape[1], 6)) for share in (0.2, 0.5))
        total = torch.zeros_like(flat[0])
        for own, ranked in zip(flat, order, strict=True):
            total[ranked[largest : largest + kept]] += 0.5 * own[ranked[largest : largest + kept]]
        return total.view(tau.shape[1:])

    found = run(family, tmp_path / "out", "breadcrumbs", weight=0.5, density=0.5, gamma=0.2)
    assert_same(found, family, delta)


def test_the_chance_of_a_change_rises_with_its_rank_in_its_row() -> None:
    """Of three: density − ε, density, density + ε; of one the density."""
    rows = torch.tensor([[3.0, -1.0, 2.0], [0.0, -5.0, 0.0]])
    expected = [[0.6, 0.4, 0.5], [0.4, 0.6, 0.5]]  # equal ones in their order
    np.testing.assert_allclose(chances(rows, 0.5, 0.1), expected, atol=1e-6)
    assert chances(torch.ones(2, 1), 0.5, 0.1).tolist() == [[0.5], [0.5]]


def test_what_della_keeps_is_divided_by_its_own_chance() -> None:
    delta = torch.randn(64, 100, generator=torch.Generator().manual_seed(1))
    found = torch.tensor(merged("della_linear", [delta.tolist()], density=(0.5,), epsilon=(0.3,)))
    drawn = random_bits(int(Drop((0.5,), False, 0).states("w")[0]), 0, delta.numel(), delta.device).view(64, 100)
    chance = chances(delta, 0.5, 0.3)
    torch.testing.assert_close(found, torch.where(drawn < chance * 2.0**32, delta / chance, 0.0))
    # 6,400 draws: the share of the change that is kept has a deviation below 0.015.
    assert float((found * delta).sum() / (delta * delta).sum()) == pytest.approx(1, abs=0.06)
    assert merged("della", [delta.tolist()], density=(1.0,), epsilon=(0.3,)) == delta.tolist()


def test_sce_selects_weighs_and_elects(family: SimpleNamespace, tmp_path: Path) -> None:
    def delta(name: str, tau: torch.Tensor) -> torch.Tensor:
        variance = tau.var(0, correction=0).flatten()
        count = int(0.4 * int(variance.count_nonzero()))
        selected = torch.zeros_like(variance).index_fill_(0, variance.topk(count).indices, 1.0)
        kept = tau.flatten(1) * selected
        weights = kept.square().sum(1) / kept.square().sum()
        sign = kept.sum(0).sign()
        merged = torch.zeros_like(variance)
        for i in range(merged.numel()):
            agree = [t for t in range(len(tau)) if kept[t, i] * sign[i] > 0]
            if agree:
                merged[i] = sum(weights[t] * kept[t, i] for t in agree) / sum(weights[t] for t in agree)
        return merged.view(tau.shape[1:])

    assert_same(run(family, tmp_path / "out", "sce", select_topk=0.4), family, delta)
    nothing = run(family, tmp_path / "none", "sce", select_topk=0.0)
    assert all(torch.equal(value, family.weights[name]) for name, value in nothing.items())


def test_arcee_fusion_takes_what_stands_out(family: SimpleNamespace, tmp_path: Path) -> None:
    found = run(family, tmp_path / "out", "arcee_fusion")
    for name, tau in deltas(family).items():
        base = family.weights[name]
        p, q = (x.double().softmax(-1) for x in (base + tau[0], base))
        importance = (tau[0].abs() * (p * (p / q).log()).sum(-1, keepdim=True)).flatten()
        ranked = importance.sort().values
        low, middle, high = (ranked[int(share * (len(ranked) - 1))] for share in (0.25, 0.5, 0.75))
        taken = (importance >= middle + 1.5 * (high - low)).view(base.shape)
        torch.testing.assert_close(found[name], torch.where(taken, base + tau[0], base))


@pytest.mark.parametrize(
    ("method", "count", "told"),
    [
        ("slerp", 2, "expected exactly one model beside the base; found 2"),
        ("nuslerp", 3, "expected exactly 2 models beside the base; found 3"),
        ("model_stock", 1, "expected at least 2 models beside the base; found 1"),
    ],
)
def test_how_many_models_is_said_before_all_work(
    family: SimpleNamespace, tmp_path: Path, method: str, count: int, told: str
) -> None:
    recipe = {"merge_method": method, "base_model": family.base}
    recipe["models"] = [{"model": model} for model in family.models[:count]]
    for work in (estimate, merge):
        with pytest.raises(InputError, match=told):
            work(load_recipe(recipe), tmp_path / "out")
    whole = {"merge_method": "neuronmerge", "base_model": family.base, "models": recipe["models"]}
    whole["parameters"] = {"neurons": family.neurons, "general": "task_arithmetic", "others": method}
    with pytest.raises(InputError, match=told):
        estimate(load_recipe(whole), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_chance_that_leaves_no_room_is_said(family: SimpleNamespace, tmp_path: Path) -> None:
    recipe = {"merge_method": "della", "base_model": family.base, "models": [{"model": family.models[0]}]}
    recipe["parameters"] = {"density": 0.9, "epsilon": 0.1}
    with pytest.raises(InputError, match="epsilon'.*less than density 0.9 and than 1 − density"):
        estimate(load_recipe(recipe), tmp_path / "out")
