"""Rules by singular values, against the formulas written out with an SVD."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.spectral import polar, singular
from nmerge_core.merging.plan.opened import open_recipe
from nmerge_core.merging.plan.spectral import is_decomposed
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.registry import methods, steps
from tests.merging import checkpoints
from tests.merging.merged import run

Matrix = NDArray[np.float64]
METHODS = ("iso_c", "tsv_m", "swudi")
TALL, WIDE, SQUARE = (12, 5), (5, 12), (6, 6)


def naive_iso_c(deltas: Matrix, chosen: dict[str, Any]) -> Matrix:
    left, sizes, right = np.linalg.svd(deltas.sum(0), full_matrices=False)
    return sizes.mean() * left @ right


def naive_tsv_m(deltas: Matrix, chosen: dict[str, Any]) -> Matrix:
    count = min(deltas.shape[1:]) // len(deltas)
    parts = [np.linalg.svd(delta, full_matrices=False) for delta in deltas]
    left = np.concatenate([each[0][:, :count] for each in parts], axis=1)
    right = np.concatenate([each[2][:count] for each in parts]).T
    sizes = np.concatenate([each[1][:count] for each in parts])
    both = [(u @ v) for u, _, v in (np.linalg.svd(each, full_matrices=False) for each in (left, right))]
    return both[0] @ np.diag(sizes) @ both[1].T


def naive_swudi(deltas: Matrix, chosen: dict[str, Any]) -> Matrix:
    norms = [(delta**2).sum() for delta in deltas]
    c = sum(delta.T @ delta / norm for delta, norm in zip(deltas, norms, strict=True))
    d = sum(delta @ delta.T @ delta / norm for delta, norm in zip(deltas, norms, strict=True))
    values, vectors = np.linalg.eigh(c)
    values, vectors = values[::-1], vectors[:, ::-1]
    if chosen["adaptive"]:
        count = int(np.ceil(np.sqrt(np.maximum(values, 0)).sum() ** 2 / values.sum()))
        f = np.where(np.arange(len(values)) < count, 1.0, 0.0)
    else:
        f = 1 - np.exp(-values * chosen["steps"])
        f[int(np.ceil(chosen["rank_ratio"] * len(values))) :] = 0
    f = np.where(values > 1e-12, f, 0)
    shares = np.divide(f, values, out=np.zeros_like(f), where=f > 0)
    return (
        deltas.sum(0) @ (np.eye(len(c)) - vectors @ np.diag(f) @ vectors.T) + d @ vectors @ np.diag(shares) @ vectors.T
    )


NAIVE = {"iso_c": naive_iso_c, "tsv_m": naive_tsv_m, "swudi": naive_swudi}


def merge(name: str, deltas: torch.Tensor, *, layer: int | None = 0, submodule: str = "mlp", **chosen: Any) -> Matrix:
    """Merge the deltas of one matrix, or of a vector."""
    found = methods()[name]
    shared = {p.name: p.default for p in found.parameters if not p.per_model} | {"lambda": 1.0} | chosen
    values: Any = SimpleNamespace(shared=shared, each={"weight": [1.0] * len(deltas)})
    neuronal, rows = deltas.shape[2] > 1, deltas.shape[1]
    base = torch.zeros(deltas.shape[1:])
    block = Block("w", base, deltas, 0, rows, neuronal, layer, submodule, 0.0, None)
    merged: torch.Tensor = found.merge(block, values, Prepared({}))
    return merged.double().numpy()


def drawn(shape: tuple[int, int], models: int = 3) -> torch.Tensor:
    return torch.randn(models, *shape, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("shape", [TALL, WIDE, SQUARE], ids=["tall", "wide", "square"])
@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("iso_c", {}),
        ("tsv_m", {}),
        ("swudi", {"steps": 3.0, "rank_ratio": 0.5, "adaptive": False}),
        ("swudi", {"steps": 300.0, "rank_ratio": 0.85, "adaptive": False}),
        ("swudi", {"adaptive": True}),
    ],
)
def test_equals_the_formula_with_an_svd(name: str, chosen: dict[str, Any], shape: tuple[int, int]) -> None:
    deltas = drawn(shape)
    expected = NAIVE[name](deltas.double().numpy(), chosen)
    np.testing.assert_allclose(merge(name, deltas, **chosen), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_iso_c_by_hand() -> None:
    """diag(3, 1) + diag(1, −3) = diag(4, −2): singular values 4 and 2, of mean 3, in the directions diag(1, −1)."""
    deltas = torch.stack([torch.diag(torch.tensor([3.0, 1.0])), torch.diag(torch.tensor([1.0, -3.0]))])
    np.testing.assert_allclose(merge("iso_c", deltas), [[3, 0], [0, -3]], atol=1e-6)
    scaled: dict[str, Any] = {"lambda": 1.5}
    assert merge("iso_c", deltas, **scaled)[0, 0] == pytest.approx(4.5)
    # A direction that is zero stays zero: diag(4, 0) has the mean 2 and the direction diag(1, 0).
    only = torch.diag(torch.tensor([4.0, 0.0]))[None]
    np.testing.assert_allclose(merge("iso_c", only), [[2, 0], [0, 0]], atol=1e-6)


def test_swudi_by_hand() -> None:
    """τ1 = diag(2, 0), τ2 = diag(1, 1): C = diag(1 + ½, ½), D = diag(2 + ½, ½), solved whole: D C⁻¹ = diag(5/3, 1)."""
    deltas = torch.stack([torch.diag(torch.tensor([2.0, 0.0])), torch.eye(2)])
    merged = merge("swudi", deltas, steps=1e6, rank_ratio=1.0, adaptive=False)
    np.testing.assert_allclose(merged, [[5 / 3, 0.0], [0.0, 1.0]], atol=1e-6)
    # Of the first eigenvalue alone, the second entry is that of the sum, 1; the adaptive rank is
    # ⌈(√1.5 + √0.5)² / 2⌉ = ⌈1.87⌉ = 2.
    np.testing.assert_allclose(merge("swudi", deltas, adaptive=True), [[5 / 3, 0.0], [0.0, 1.0]], atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_models_that_changed_nothing_do_not_count(name: str) -> None:
    deltas = drawn(WIDE, 2)
    nothing = torch.zeros(1, *WIDE)
    assert not merge(name, nothing).any()
    if name != "tsv_m":  # of which each model gets its share of the directions all the same
        np.testing.assert_array_equal(merge(name, torch.cat([deltas, nothing])), merge(name, deltas))
    alone = merge(name, torch.cat([deltas[:1], nothing])) if name == "swudi" else merge(name, deltas[:1])
    if name != "iso_c":  # one model alone is itself
        np.testing.assert_allclose(alone, deltas[0].numpy(), atol=1e-5)


RULES = {name: each for name, each in {**methods(), **steps()}.items() if each.whole is is_decomposed}


def by_rule(name: str, deltas: torch.Tensor) -> Matrix:
    """What a method merges of the deltas of one matrix by its defaults, or a step of their sum."""
    rule = RULES[name]
    shared = {p.name: p.default for p in rule.parameters if not p.per_model}
    values: Any = SimpleNamespace(shared=shared, each={"weight": [1.0] * len(deltas)})
    base, rows = torch.zeros(deltas.shape[1:]), deltas.shape[1]
    block = Block("w", base, deltas, 0, rows, True, 0, "mlp", 0.0, None, merged=deltas.sum(0) if rule.step else None)
    merged: torch.Tensor = rule.merge(block, values, Prepared({}))
    return merged.double().numpy()


def assert_near(found: Matrix, expected: Matrix) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6 * np.abs(expected).max())


def test_every_rule_by_singular_values_is_known() -> None:
    assert {*RULES} == {*METHODS, "svc"}


@pytest.mark.parametrize("shape", [TALL, WIDE], ids=["tall", "wide"])
@pytest.mark.parametrize("name", RULES)
def test_signs_of_singular_vectors_change_nothing(
    name: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The eigenvectors that are found are turned round, every second one and then the others."""
    deltas, found = drawn(shape), torch.linalg.eigh
    expected = by_rule(name, deltas)
    for first in (0, 1):

        def turned(matrix: torch.Tensor, first: int = first) -> tuple[torch.Tensor, torch.Tensor]:
            values, vectors = found(matrix)
            vectors[:, first::2] *= -1
            return values, vectors

        monkeypatch.setattr(torch.linalg, "eigh", turned)
        assert_near(by_rule(name, deltas), expected)


@pytest.mark.parametrize("shape", [TALL, WIDE], ids=["tall", "wide"])
@pytest.mark.parametrize("name", RULES)
def test_what_is_turned_is_merged_to_what_was_merged_turned(name: str, shape: tuple[int, int]) -> None:
    """Q τ_t R of orthogonal Q and R: all singular vectors are others. Nor does the order of the models tell."""
    deltas = drawn(shape).double()
    q, r = (torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(n)).double())[0] for n in shape)
    turned = by_rule(name, (q @ deltas @ r).float())
    assert_near(turned, q.numpy() @ by_rule(name, deltas.float()) @ r.numpy())
    assert_near(by_rule(name, deltas.flip(0).float()), by_rule(name, deltas.float()))


@pytest.mark.parametrize("name", RULES)
def test_directions_that_are_the_same_or_none_make_no_nonsense(name: str) -> None:
    """Equal models, models of one direction, more models than directions: finite, and within what was changed."""
    one = drawn(WIDE, 1)
    thin = torch.outer(one[0, :, 0], one[0, 0])[None]
    for deltas in (one.repeat(3, 1, 1), thin, torch.cat([thin, -thin, thin]), drawn((2, 9), 4), drawn((9, 2), 4)):
        merged = by_rule(name, deltas)
        assert np.isfinite(merged).all()
        assert np.abs(merged).max() <= 10 * np.abs(deltas.numpy()).sum(0).max()
    rank = np.linalg.matrix_rank(by_rule(name, thin), tol=1e-4)
    assert rank <= 1 and not by_rule(name, torch.zeros(2, *WIDE)).any()


@pytest.mark.parametrize("name", METHODS)
def test_vectors_get_the_mean_and_embeddings_stay_unless_they_are_included(name: str) -> None:
    vector = torch.tensor([[[1.0], [2.0]], [[3.0], [6.0]]])
    np.testing.assert_allclose(merge(name, vector), [[2], [4]])
    deltas = drawn(SQUARE)
    assert not merge(name, deltas, layer=None).any()
    inside = merge(name, deltas)
    np.testing.assert_array_equal(merge(name, deltas, layer=None, include_embeddings=True), inside)
    np.testing.assert_allclose(
        merge(name, deltas, submodule="attention", matrices="mlp"), deltas.mean(0).double(), atol=1e-6
    )
    np.testing.assert_array_equal(merge(name, deltas, matrices="mlp"), inside)


def test_each_matrix_of_a_stack_is_merged_by_itself() -> None:
    first, second = drawn(SQUARE), 10 * drawn(SQUARE).flip(0)
    found = methods()["tsv_m"]
    shared = {p.name: p.default for p in found.parameters if not p.per_model}
    values: Any = SimpleNamespace(shared=shared, each={"weight": [1.0, 1.0, 1.0]})
    both = torch.cat([first, second], 1)
    block = Block("w", torch.zeros(both.shape[1:]), both, 0, 12, True, 0, "mlp", 0.0, None)
    merged = found.merge(block, values, Prepared({"w": 2})).double().numpy()
    np.testing.assert_array_equal(merged, np.concatenate([merge("tsv_m", first), merge("tsv_m", second)]))


def test_dependent_columns_span_what_they_span() -> None:
    column = torch.tensor([[3.0], [4.0]], dtype=torch.float64)
    doubled = polar(torch.cat([column, column], 1))  # of two equal columns: a direction of length 1 between them
    np.testing.assert_allclose(doubled, np.array([[0.6, 0.6], [0.8, 0.8]]) / np.sqrt(2), atol=1e-12)
    assert singular(torch.zeros(2, 3)).sizes.numel() == 0


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        ({"merge_method": "iso_c"}, ("mlp", "self_attn")),
        ({"merge_method": "swudi", "parameters": {"matrices": "mlp"}}, ("mlp",)),
        ({"merge_method": "tsv_m", "parameters": {"include_embeddings": True}}, ("mlp", "self_attn", "embed", "head")),
        ({"merge_method": "ties", "then": ["svc"]}, ("mlp", "self_attn")),
        ({"merge_method": "ties", "then": [{"method": "svc", "matrices": "mlp"}]}, ("mlp",)),
        ({"merge_method": "neuronmerge", "parameters": {"specific": {"math": "iso_c"}, "others": "ties"}}, ("mlp",)),
        ({"merge_method": "neuronmerge", "parameters": {"others": "iso_c"}}, ("self_attn",)),
        ({"merge_method": "neuronmerge", "parameters": {"others": "ties"}}, ()),
    ],
)
def test_what_is_decomposed_is_read_whole_and_nothing_else(
    family: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any], whole: tuple[str, ...]
) -> None:
    """A block is one row, so that every matrix that is not whole is several."""
    monkeypatch.setattr("nmerge_core.merging.compute.stream.BLOCK_ELEMENTS", 1)
    models = checkpoints.entries(content["merge_method"], family.models)
    recipe = load_recipe({"base_model": family.base, "models": models, **content})
    opened = open_recipe(recipe, "cpu")
    blocks = recipe.method.blocks(opened.stream, opened.merged_names, recipe.values())
    counts = Counter(rows.name for rows in blocks)
    matrices = {name for name, weight in family.weights.items() if weight.dim() == 2}
    assert {name for name in matrices if counts[name] == 1} == {
        name for name in matrices if any(part in name for part in whole)
    }


@pytest.mark.parametrize("name", METHODS)
def test_the_size_of_blocks_changes_no_bit(
    family: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of embeddings and head, and with `matrices: mlp` of attention, a block is some rows, however many."""
    written = []
    for elements in (32, 1 << 17):
        monkeypatch.setattr("nmerge_core.merging.compute.stream.BLOCK_ELEMENTS", elements)
        run(family, tmp_path / str(elements), name, matrices="mlp")
        written.append((tmp_path / str(elements) / "model.safetensors").read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("name", "problems", "products", "copies"), [("iso_c", 1, 6, 5), ("tsv_m", 5, 20, 9), ("swudi", 1, 28, 14)]
)
def test_the_cost_of_a_rule_by_hand(
    family: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, name: str, problems: int, products: int, copies: int
) -> None:
    """Of three models' MLP matrices: eigenproblems of 9 n³ and products of a side n; copies in float64 on two cores."""
    monkeypatch.setattr("nmerge_core.merging.plan.spectral.cores", lambda: 2)
    models = checkpoints.entries(name, family.models)
    recipe = load_recipe(
        {"merge_method": name, "base_model": family.base, "models": models, "parameters": {"matrices": "mlp"}}
    )
    shapes = [weight.shape for tensor, weight in family.weights.items() if "mlp" in tensor]
    sides = [min(columns, 3 * rows) if name == "swudi" else min(rows, columns) for rows, columns in shapes]
    needs = recipe.method.needs(open_recipe(recipe, "cpu").stream, recipe.values())
    each = zip(shapes, sides, strict=True)
    assert needs.operations == sum(9 * problems * n**3 + products * rows * columns * n for (rows, columns), n in each)
    assert needs.memory == 2 * 8 * copies * max(rows * columns for rows, columns in shapes)
