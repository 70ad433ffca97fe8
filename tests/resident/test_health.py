"""What tells why a merge went bad: sums by hand, and the whole against the files of a family."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from nmerge_core.errors import InputError
from nmerge_core.merging.compute import stream
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.resident import LiveMerge, health, hold_family
from nmerge_core.resident.change import merge_sums, model_sums
from tests.tiny import tiny_model
from tests.tiny_family import make_family


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return make_family(tmp_path_factory.mktemp("family"))


def test_sums_by_hand() -> None:
    """Entries 0 and 1 were changed by several models, which disagree about the second; three changed the first."""
    deltas = torch.tensor([[1.0, -2.0, 0.0, 3.0], [2.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    found = model_sums(deltas)
    assert found.squares.tolist() == [14.0, 5.0, 1.0]
    assert (found.shared, found.opposed, found.chance) == (2, 1, 3 / 4 + 1 / 2)
    assert (found.absolute, found.summed) == (6.0 + 3.0 + 1.0, 4.0 + 1.0 + 3.0)
    merge = merge_sums(torch.tensor([1.5, -0.5, 0.0, 1.5]), deltas)
    assert (merge.square, merge.products.tolist()) == (4.75, [1.5 + 1.0 + 4.5, 3.0 - 0.5, 1.5])
    twice = found + found
    assert (twice.squares.tolist(), twice.shared, twice.opposed, twice.chance) == ([28.0, 10.0, 2.0], 4, 2, 2.5)
    assert (twice.absolute, twice.summed, (merge + merge).products.tolist()) == (20.0, 16.0, [14.0, 5.0, 3.0])


def live_merge(made: SimpleNamespace, method: str, *, base: bool = True, scale: float | None = None) -> LiveMerge:
    content = {
        "merge_method": method,
        "models": [{"model": made.math}, {"model": made.code}],
        "parameters": {} if scale is None else {"lambda": scale},
        **({"base_model": made.base} if base else {}),
    }
    recipe = load_recipe(content)
    live = LiveMerge(hold_family(recipe), recipe)
    live.follow(recipe)
    return live


PARTS = {"attention": ("self_attn.", "input_layernorm."), "mlp": ("mlp.", "post_attention_layernorm.")}


def of_part(made: SimpleNamespace, layer: int, part: str) -> list[torch.Tensor]:
    """What math and code changed in a part of a layer, its tensors one after the other."""
    base, *tuned = (load_file(Path(folder) / "model.safetensors") for folder in (made.base, made.math, made.code))
    names = [name for name in base if name.startswith(tuple(f"model.layers.{layer}.{own}" for own in PARTS[part]))]
    return [torch.cat([(own[name].double() - base[name]).flatten() for name in names]) for own in tuned]


def test_changes_of_a_family(made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """λ (τ₁ + τ₂) against sums over the files; matrices come in several blocks."""
    monkeypatch.setattr(stream, "BLOCK_ELEMENTS", 256)
    found = health.changes(live_merge(made, "task_arithmetic", scale=0.5))
    assert [tuple(row) for row in found.layers[["layer", "part"]].to_numpy()] == [
        (layer, part) for layer in (0, 1) for part in ("attention", "mlp")
    ]
    for row in found.layers.to_dict("records"):
        first, second = of_part(made, row["layer"], row["part"])
        merged = 0.5 * (first + second)
        both = (first != 0) & (second != 0)
        assert row["norm"] == pytest.approx(merged.norm().item(), rel=1e-4)
        assert row["opposed"] == pytest.approx(((first * second < 0).sum() / both.sum()).item(), abs=1e-3)
        assert row["chance"] == 0.5
        summed, absolute = (first + second).abs().sum(), first.abs().sum() + second.abs().sum()
        assert row["cancelled"] == pytest.approx(1 - (summed / absolute).item(), rel=1e-4)
        of_models = found.models.query("layer == @row['layer'] and part == @row['part']")
        assert list(of_models["model"]) == [0, 1]
        for own, model in zip((first, second), of_models.to_dict("records"), strict=True):
            assert model["norm"] == pytest.approx(own.norm().item(), rel=1e-4)
            assert model["kept"] == pytest.approx((merged @ own / own.square().sum()).item(), rel=1e-3)


def test_of_one_model_all_is_kept_and_of_none_nothing_is_known(made: SimpleNamespace) -> None:
    alone = {"models": [{"model": made.math}, {"model": made.base}], "base_model": made.base}
    recipe = load_recipe({"merge_method": "task_arithmetic", "parameters": {"lambda": 1.0}, **alone})
    live = LiveMerge(hold_family(recipe), recipe)
    live.follow(recipe)
    found = health.changes(live)
    assert list(found.models.query("model == 0")["kept"]) == pytest.approx([1.0] * 4, rel=1e-4)
    assert all(map(math.isnan, found.models.query("model == 1")["kept"]))
    assert all(map(math.isnan, found.layers["opposed"])) and set(found.layers["cancelled"]) == {0.0}


def test_a_merge_of_weights_is_measured_from_the_base_that_is_named(made: SimpleNamespace) -> None:
    """An average keeps of each model what half of the sum of changes does."""
    expected = health.changes(live_merge(made, "task_arithmetic", scale=0.5))
    for live, base in ((live_merge(made, "linear"), None), (live_merge(made, "linear", base=False), made.base)):
        found = health.changes(live, base)
        assert found.models["kept"].tolist() == pytest.approx(expected.models["kept"].tolist(), rel=1e-3)
        assert found.layers["cancelled"].tolist() == pytest.approx(expected.layers["cancelled"].tolist())


def test_what_is_no_base_is_refused(made: SimpleNamespace, tmp_path: Path) -> None:
    live = live_merge(made, "linear", base=False)
    with pytest.raises(InputError, match="the recipe names no base_model to measure changes from"):
        health.changes(live)
    with pytest.raises(InputError, match="changes cannot be measured from it: math: its head is not the base's"):
        health.changes(live, tiny_model(tmp_path, tied=False))


def test_what_is_of_the_models_alone_is_found_once(made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    live = live_merge(made, "task_arithmetic", scale=0.5)
    before = health.changes(live)
    monkeypatch.setattr(health, "model_sums", lambda deltas: pytest.fail("found again"))
    live.follow(load_recipe({**live.recipe.content, "parameters": {"lambda": 1.0}}))
    after = health.changes(live)
    assert after.layers["norm"].tolist() == pytest.approx((2 * before.layers["norm"]).tolist(), rel=1e-3)
    assert after.layers["opposed"].tolist() == before.layers["opposed"].tolist()
