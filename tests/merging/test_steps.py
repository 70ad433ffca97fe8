"""Steps after a method: by hand, against formulas with an SVD, and after methods of every kind on the tiny family."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from nmerge_core.checkpoints import fingerprint, open_checkpoint
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.inputs import Places
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.methods.aim import merge as aim
from nmerge_core.merging.methods.svc import merge as svc
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.recipe import registry
from nmerge_core.merging.recipe.changes import side_by_side, told
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.registry import method, steps
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Number
from tests.merging import checkpoints
from tests.merging.merged import Weights, needed
from tests.merging.test_pipeline import StopAt

Matrix = NDArray[np.float64]


def block(change: Any, deltas: Any, name: str = "w", layer: int | None = 0) -> Block:
    """A whole matrix that was merged, (m, n), of deltas (T, m, n)."""
    merged, deltas = (torch.as_tensor(np.array(each), dtype=torch.float32) for each in (change, deltas))
    base, rows = torch.zeros_like(merged), len(merged)
    return Block(name, base, deltas, 0, rows, True, layer, "mlp", 0.0, None, merged=merged)


def calibrated(change: Any, deltas: Any, **chosen: Any) -> Matrix:
    values = Values("svc", steps()["svc"].defaults | chosen)
    return svc(block(change, deltas), values, Prepared({})).double().numpy()


def naive_svc(change: Matrix, deltas: Matrix, alpha: float) -> Matrix:
    left, sizes, right = np.linalg.svd(change, full_matrices=False)
    sizes = sizes.copy()
    for r in range(len(sizes)):
        overlaps = []
        for delta in deltas:
            answer = left[:, r] @ delta
            overlaps.append(max(alpha, (sizes[r] * right[r]) @ answer / (answer @ answer)))
        sizes[r] *= len(deltas) / sum(overlaps)
    return left @ np.diag(sizes) @ right


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (6, 6)], ids=["tall", "wide", "square"])
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_svc_equals_the_formula_with_an_svd(shape: tuple[int, int], alpha: float) -> None:
    """An SVD has signs and an order of its own: the formula depends on neither."""
    deltas = np.random.default_rng(5).standard_normal((3, *shape)).astype(np.float32).astype(float)
    change = (deltas * [[[1.0]], [[0.5]], [[0.8]]]).sum(0).astype(np.float32).astype(float)
    expected = naive_svc(change, deltas, alpha)
    np.testing.assert_allclose(calibrated(change, deltas, alpha=alpha), expected, atol=2e-6 * np.abs(expected).max())


def test_svc_by_hand() -> None:
    """τ1 = diag(2, 0), τ2 = diag(2, 1), Δ = τ1 + τ2 = diag(4, 1).

    Direction 1: both answer (2, 0), s = 4·2 / 2² = 2 each, so γ = 2 / 4 and σ 4 → 2: what they share counts once.
    Direction 2: τ1 answers nothing, s = 0 → α; τ2 answers (0, 1), s = 1. At α = 0.5, γ = 2 / 1.5 and σ 1 → 4/3.
    """
    deltas = [np.diag([2.0, 0.0]), np.diag([2.0, 1.0])]
    np.testing.assert_allclose(calibrated(np.diag([4.0, 1.0]), deltas, alpha=0.5), np.diag([2.0, 4 / 3]), atol=1e-6)
    # A model that changed nothing does not count: of τ2 alone s = 4/2 in direction 1 and 1 in direction 2.
    alone = [np.zeros((2, 2)), np.diag([2.0, 1.0])]
    np.testing.assert_allclose(calibrated(np.diag([4.0, 1.0]), alone), np.diag([2.0, 1.0]), atol=1e-6)


def test_svc_leaves_one_models_change_and_no_change_alone() -> None:
    delta = np.random.default_rng(2).standard_normal((4, 7))
    np.testing.assert_allclose(calibrated(delta, [delta]), delta, atol=1e-6)
    nothing = np.zeros((4, 7))
    assert not calibrated(nothing, [delta, delta]).any() and not calibrated(nothing, [nothing, nothing]).any()
    assert (calibrated(delta, [nothing]) == delta.astype(np.float32)).all()


def test_svc_weighs_each_matrix_of_a_stack_by_itself() -> None:
    deltas = np.random.default_rng(3).standard_normal((2, 6, 4))
    values = Values("svc", steps()["svc"].defaults)
    found = svc(block(deltas.sum(0), deltas, "experts"), values, Prepared({"experts": 2})).double().numpy()
    for rows in (slice(0, 3), slice(3, 6)):
        expected = naive_svc(deltas[:, rows].sum(0), deltas[:, rows], 0.1)
        np.testing.assert_allclose(found[rows], expected, atol=1e-5)


def test_aim_by_hand() -> None:
    """a = (4, 1, 0): shares 1, ¼, 0; at ω = 0.4 the columns keep 1 − 0.6 = 0.4, 1 − 0.15 = 0.85, and 1 of it."""
    facts = Prepared(({"w": torch.tensor([1.0, 0.25, 0.0])}, {"w": "w"}))
    change = [[10.0, 10.0, 10.0], [20.0, -20.0, 20.0]]
    merged = aim(block(change, [change]), Values("aim", {"omega": 0.4}), facts)
    torch.testing.assert_close(merged, torch.tensor([[4.0, 8.5, 10.0], [8.0, -17.0, 20.0]]))
    assert torch.equal(
        aim(block(change, [change], "other"), Values("aim", {"omega": 0.4}), facts), torch.tensor(change)
    )


@pytest.fixture(scope="module")
def magnitudes(family: SimpleNamespace) -> SimpleNamespace:
    """A folder of the base's input magnitudes, random, and what AIM multiplies each layer's columns by at ω = 0.4."""
    folder, checkpoint = family.root / "magnitudes", open_checkpoint(family.base)
    folder.mkdir()
    names = {name: checkpoints.gram_name(name) for name in sorted(checkpoint.tensors) if "_proj.weight" in name}
    generator = torch.Generator().manual_seed(3)
    sums = {own: torch.rand(checkpoint.architecture.matrix(own).columns, generator=generator) for own in names.values()}
    save_file(sums, folder / "model.safetensors")
    meta: dict[str, Any] = {"kind": "magnitude", "model": family.base, "label": "base", "corpus": "none", "tokens": 5}
    meta |= {"model_fingerprint": fingerprint(checkpoint), "categories": ["general"], "texts": 1}
    (folder / "meta.json").write_text(json.dumps(meta | {"files": ["model.safetensors"], "magnitudes": names}))
    factors = {name: 1 - 0.6 * sums[own] / sums[own].max() for name, own in names.items()}
    return SimpleNamespace(folder=str(folder), factors=factors)


def recipe_of(family: SimpleNamespace, name: str, then: Any, **parameters: Any) -> Recipe:
    models = checkpoints.entries(name, family.models)
    content = {"merge_method": name, "base_model": family.base, "models": models, "parameters": parameters}
    return load_recipe({**content, "then": then} if then else content)


def merged(recipe: Recipe, out: Path) -> Weights:
    merge(recipe, out)
    return load_file(out / "model.safetensors")


# By rules of entries and of rows, by torch, with whole tensors, and with coefficients that were found before.
KINDS = ("ties", "neuromerging", "sce", "iso_c", "sublin", "subspace")


@pytest.mark.parametrize("name", KINDS)
def test_steps_go_on_from_what_a_method_merged(
    family: SimpleNamespace, magnitudes: SimpleNamespace, tmp_path: Path, name: str
) -> None:
    """AIM and its sibling by hand, on the difference of a plain merge from the base: neurons 0, 4 and 8 are General."""
    parameters = needed(family, name)
    plain = merged(recipe_of(family, name, None, **parameters), tmp_path / "plain")
    then = [{"method": "aim", "statistics": magnitudes.folder}, {"method": "aim_neurons", "neurons": family.neurons}]
    found = merged(recipe_of(family, name, then, **parameters), tmp_path / "out")
    for tensor, base in family.weights.items():
        change = (plain[tensor] - base) * magnitudes.factors.get(tensor, 1.0)
        if "mlp.down" in tensor:
            change[:, ::4] *= 0.4
        elif "mlp." in tensor:
            change[::4] *= 0.4
        torch.testing.assert_close(found[tensor], base + change, atol=2e-6, rtol=2e-6)


def test_steps_after_neuronmerge_and_its_parts(family: SimpleNamespace, tmp_path: Path) -> None:
    """SVC after NeuronMerge whose categories are merged in different ways: the formula on the whole change."""
    parameters = needed(family, "neuronmerge") | {"specific": {"math": "own", "code": "ties"}, "others": "ties"}
    plain = merged(recipe_of(family, "neuronmerge", None, **parameters), tmp_path / "plain")
    found = merged(recipe_of(family, "neuronmerge", ["svc"], **parameters), tmp_path / "out")
    for tensor, base in family.weights.items():
        change = (plain[tensor] - base).double().numpy()
        if "layers" in tensor and base.dim() == 2:
            deltas = np.stack([(tune[tensor] - base).double().numpy() for tune in family.tunes.values()])
            change = naive_svc(change, deltas, 0.1)
        np.testing.assert_allclose((found[tensor] - base).double(), change, atol=2e-5)


def test_a_killed_merge_with_steps_goes_on_to_the_same_bytes(
    family: SimpleNamespace, magnitudes: SimpleNamespace, tmp_path: Path
) -> None:
    then = ["svc", {"method": "aim", "statistics": magnitudes.folder}]
    recipe = recipe_of(family, "dare_ties", then, density=0.5)
    merge(recipe, tmp_path / "whole")
    with pytest.raises(Cancelled):
        merge(recipe, tmp_path / "out", progress=StopAt(10))
    merge(recipe, tmp_path / "out")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "out")]
    assert files[0] == files[1]
    report = json.loads((tmp_path / "out/nmerge_report.json").read_text())
    assert report["facts"]["statistics of aim"][0]["label"] == "base"
    again = load_recipe(tmp_path / "out/nmerge_recipe.yaml")
    assert [step.step for step in again.then] == ["svc", "aim"] and again.then[1].parameters["omega"] == 0.4


def test_what_a_step_goes_by_tells_merges_apart(
    family: SimpleNamespace, magnitudes: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(family, "ties", [{"method": "aim", "statistics": magnitudes.folder}])
    _, read = recipe.in_full(Places(tmp_path))
    assert read["step aim"] == "version 1" and str(Path(magnitudes.folder).resolve()) in read
    monkeypatch.setitem(registry._METHODS, "aim", replace(steps()["aim"], version=2))
    assert recipe.in_full(Places(tmp_path))[1]["step aim"] == "version 2"
    with pytest.raises(InputError, match=r"key 'then\[0\]'.*nowhere"):
        recipe_of(family, "ties", [{"method": "aim", "statistics": "nowhere"}]).in_full(Places(tmp_path))


def test_a_dry_run_counts_steps_and_says_what_they_lack(family: SimpleNamespace, tmp_path: Path) -> None:
    plain = estimate(recipe_of(family, "task_arithmetic", None), tmp_path / "out")
    weighed = estimate(recipe_of(family, "task_arithmetic", "svc"), tmp_path / "out")
    assert weighed.seconds > plain.seconds and weighed.peak_memory > plain.peak_memory and not weighed.solving
    lacking = [("aim", r"then\[1\]\.statistics.*magnitude.*or a 'corpus'"), ("aim_neurons", r"then\[1\]\.neurons")]
    for name, said in lacking:
        for work in (estimate, merge):
            with pytest.raises(InputError, match=said):
                work(recipe_of(family, "task_arithmetic", ["svc", name]), tmp_path / "out")
    strange = {"method": "aim_neurons", "neurons": family.neurons, "categories": "maths"}
    with pytest.raises(InputError, match=r"then\[0\]\.categories.*found \['maths'\]"):
        estimate(recipe_of(family, "task_arithmetic", strange), tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"merge_method": "linear"}, "key 'then'.*linear merges weights"),
        ({"merge_method": "nuslerp", "base_model": None}, "key 'then'.*without 'base_model'"),
        ({"then": ["svd"]}, r"key 'then\[0\]'.*did you mean 'svc'"),
        ({"then": [{"method": "svc"}, "ties"]}, r"key 'then\[1\]'.*ties is no step"),
        ({"then": [{"alpha": 0.2}]}, r"key 'then\[0\]'.*found \{'alpha': 0.2\}"),
        ({"then": [{"method": "svc", "alfa": 0.2}]}, r"then\[0\] \(svc\): unknown key 'alfa'; did you mean 'alpha'"),
        ({"then": [{"method": "svc", "alpha": 0}]}, r"key 'then\[0\].alpha': expected a number in \(0, 1\]"),
        ({"merge_method": "svc"}, "'svc' is a step; expected a method"),
        ({"parameters": {"omega": 0.3}}, "omega.*parameter of aim"),
        (
            {"models": None, "slices": [{"sources": [{"model": m, "layer_range": [0, 2]} for m in ("b", "one")]}]},
            "expected 'then' or 'slices', found both",
        ),
    ],
)
def test_steps_without_meaning_are_refused(content: dict[str, Any], said: str) -> None:
    recipe = {"merge_method": "ties", "base_model": "b", "models": [{"model": "one"}, {"model": "two"}], "then": "svc"}
    with pytest.raises(InputError, match=said):
        load_recipe(recipe | content)


def test_steps_are_told_in_words_and_stay_in_the_yaml() -> None:
    content = {"merge_method": "ties", "base_model": "b", "models": [{"model": "one"}]}
    plain, recipe = (load_recipe(content | ({"then": then} if then else {})) for then in (None, ["svc", "aim"]))
    assert load_recipe(recipe.yaml).content == recipe.content and recipe.content != plain.content
    held = load_recipe(content | {"then": {"method": "aim", "omega": 0.5, "corpus": "texts"}})
    assert held.title({}).endswith("then AIM (ω 0.5)") and told(held, {}) == "TIES-Merging, Then AIM (omega 0.5)"
    assert side_by_side([plain, recipe], {})["Then"] == ["", "SVC, AIM"]


def test_a_parameter_of_a_step_is_of_the_whole_merge() -> None:
    parameter = Number(name="share", default=0.5, low=0, high=1, help="A share.", varies=True)
    register = method("varied", title="Varied", paper="none", summary="None.", parameters=[parameter], step=True)
    with pytest.raises(ValueError, match="step 'varied' .*: 'share' differs by model or tensor"):
        register(lambda block, values, prepared: block.change)
