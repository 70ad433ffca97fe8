"""A live merge: its weights are those that a merge writes, and only what changed is merged anew."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from nmerge_core.errors import InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.registry import methods
from nmerge_core.resident import LiveMerge, Place, hold_family
from tests.tiny_family import make_family

PARTS = {"0", "1", "embedding", "norm"}
ALPHA = {str(layer): {part: [0.25, 0.5 - layer] for part in ("attention", "mlp")} for layer in range(2)}
NEEDED: dict[str, dict[str, Any]] = {
    "sublin": {"coefficients": ALPHA},
    "adamerging": {"coefficients": dict.fromkeys(PARTS, [0.5, -0.25])},
    "lorahub": {"coefficients": {"model": [0.5, -0.25]}},
    "pcb_es": {"coefficients": {"model": [0.5, -0.25]}},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    made = make_family(tmp_path_factory.mktemp("family"))
    return SimpleNamespace(**vars(made), models=[made.math, made.code])


def recipe_of(made: SimpleNamespace, method: str, dtype: str = "", **parameters: Any) -> Recipe:
    content = {
        "merge_method": method,
        "base_model": made.base,
        "models": [{"model": model} for model in made.models],
        "parameters": parameters,
    }
    return load_recipe(content | ({"dtype": dtype} if dtype else {}))


def needed(made: SimpleNamespace, method: str) -> dict[str, Any]:
    if method == "neuronmerge":
        return {"corpus": made.corpus, "calibration": made.corpus, "samples": 2, "top_k": 5}
    data = {"corpus": made.corpus, "samples": 2} if method in ("fisher", "regmean", "regmean_pp") else {}
    return NEEDED.get(method, data)


def assert_as_merged(live: LiveMerge, recipe: Recipe, out: Path) -> None:
    merge(recipe, out)
    assert_as_written(live, out)


def assert_as_written(live: LiveMerge, out: Path) -> None:
    written = load_file(out / "model.safetensors")
    assert written.keys() == set(live.family.names)
    for name, weights in written.items():
        assert torch.equal(live.weights(name).cpu(), weights), name
    own = {name: weights.cpu() for name, weights in live.language_model.model.named_parameters()}
    assert all(torch.equal(own[name].to(weights.dtype), weights) for name, weights in written.items() if name in own)


@pytest.mark.parametrize("dtype", ["", "bfloat16", "float16"])
def test_weights_are_those_that_every_method_writes(made: SimpleNamespace, tmp_path: Path, dtype: str) -> None:
    for models in (made.models, made.models[:1]):
        few = SimpleNamespace(**{**vars(made), "models": models})
        family = hold_family(recipe_of(few, "linear", dtype))
        live = LiveMerge(family, recipe_of(few, "linear", dtype))
        for method in (name for name, each in methods().items() if min(each.most or 2, 2) == len(models)):
            recipe = recipe_of(few, method, dtype, **needed(made, method))
            assert live.follow(recipe).tensors == len(family.names)
            assert_as_merged(live, recipe, tmp_path / method)


def test_weights_follow_one_setting_after_another(made: SimpleNamespace, tmp_path: Path) -> None:
    """What was found for earlier settings is used again, never for another: one control after the other, and back."""
    one_layer = [{"filter": "layers.1.", "value": 0.7}, {"value": 0.4}]
    sequence: list[tuple[str, dict[str, Any]]] = [
        ("ties", {"density": 0.2}),
        ("ties", {"density": 0.5}),
        ("ties", {"density": 0.5, "lambda": one_layer}),
        ("neuromerging", {}),
        ("neuromerging", {"lambda_1": 0.3}),
        ("neuromerging", {"lambda_1": 0.3, "mask_ratio": 0.4}),
        ("neuromerging", {"lambda_1": 0.3, "mask_ratio": 0.4, "merge_function": "sum"}),
        ("dare_ties", {"density": 0.5, "weight": one_layer}),
        ("neuromerging", {"lambda_2": 2.0, "merge_function": "mean"}),
        ("neuromerging", {}),
        ("ties", {"density": 0.2}),
    ]
    # "cpu:0" is merged on as an accelerator is: by torch, in large blocks, and told of all of them at once.
    held: tuple[tuple[Place, str, int], ...] = (("device", "cpu", 1), ("files", "cpu", 3), ("device", "cpu:0", 3))
    for place, device, every in held:
        family = hold_family(recipe_of(made, "linear"), device, place=place)
        live = LiveMerge(family, recipe_of(made, "linear"))
        for number, (method, parameters) in list(enumerate(sequence))[::every]:
            recipe, out = recipe_of(made, method, **parameters), tmp_path / f"{number}"
            live.follow(recipe)
            if not out.exists():
                merge(recipe, out)
            assert_as_written(live, out)


def test_only_what_changed_is_merged_anew(made: SimpleNamespace, tmp_path: Path) -> None:
    def recipe(of_layer: float) -> Recipe:
        scale = [{"filter": "layers.1.", "value": of_layer}, {"value": 0.4}]
        return recipe_of(made, "task_arithmetic", "", **{"lambda": scale})

    live = LiveMerge(hold_family(recipe(0.5)), recipe(0.5))
    assert live.follow(recipe(0.5)).tensors == len(live.family.names)
    assert live.follow(recipe(0.5)).tensors == 0
    second = [name for name in live.family.names if "layers.1." in name]
    assert live.follow(recipe(0.7)).tensors == len(second) == 12
    assert_as_merged(live, recipe(0.7), tmp_path / "out")


def test_steps_are_followed_and_merge_anew_what_they_change(made: SimpleNamespace, tmp_path: Path) -> None:
    def recipe(omega: float, alpha: float = 0.1) -> Recipe:
        aim = {"method": "aim", "omega": omega, "corpus": made.corpus, "samples": 2}
        then = [{"method": "svc", "alpha": alpha}, aim]
        return load_recipe({**recipe_of(made, "ties", density=0.5).content, "then": then})

    live = LiveMerge(hold_family(recipe(0.4)), recipe(0.4))
    assert live.follow(recipe(0.4)).tensors == len(live.family.names)
    assert_as_merged(live, recipe(0.4), tmp_path / "first")
    assert all("_proj.weight" in name for name in changed(live, recipe(0.7)))  # the inputs of linear layers alone
    assert_as_merged(live, recipe(0.7), tmp_path / "second")
    live.follow(recipe(0.7, alpha=1.0))
    assert_as_merged(live, recipe(0.7, alpha=1.0), tmp_path / "third")
    live.follow(recipe_of(made, "ties", density=0.5))
    assert_as_merged(live, recipe_of(made, "ties", density=0.5), tmp_path / "plain")


NEURONS = [f"model.layers.{layer}.mlp.{part}_proj.weight" for layer in range(2) for part in ("down", "gate", "up")]


def changed(live: LiveMerge, recipe: Recipe) -> list[str]:
    """Follow a recipe; return the tensors that were merged anew, which are those whose weights it could change."""
    before = dict(live._made)
    count = live.follow(recipe).tensors
    found = [name for name in live.family.names if name not in before or live._made[name] != before[name]]
    assert count == len(found)
    return found


@pytest.mark.parametrize(
    ("before", "after", "part"),
    [
        ({"lambda": [0.5, 0.5]}, {"lambda": [0.5, 0.7]}, r"layers\.1\.|^model\.norm"),
        ({"lambda": 0.5}, {"lambda": [{"filter": "self_attn", "value": 0.7}, {"value": 0.5}]}, "self_attn"),
        ({"lambda": 0.5}, {"lambda": [{"filter": "mlp", "value": [0.5, 0.7]}, {"value": 0.5}]}, r"layers\.1\.mlp"),
        ({"density": 0.5}, {"density": 0.5, "lambda": [1.0, 0.7]}, r"layers\.1\.|^model\.norm"),
    ],
)
def test_a_curve_over_the_layers_and_a_filter_touch_their_tensors_alone(
    made: SimpleNamespace, tmp_path: Path, before: dict[str, Any], after: dict[str, Any], part: str
) -> None:
    method = "ties" if "density" in before else "task_arithmetic"
    live = LiveMerge(hold_family(recipe_of(made, method)), recipe_of(made, method))
    live.follow(recipe_of(made, method, **before))
    recipe = recipe_of(made, method, **after)
    assert changed(live, recipe) == [name for name in live.family.names if re.search(part, name)]
    assert_as_merged(live, recipe, tmp_path / "out")


def test_a_choice_of_neuronmerge_touches_the_tensors_of_its_neurons_alone(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    solved = {layer: {**parts, "general": [0.5, 0.5]} for layer, parts in ALPHA.items()}
    another = {**solved, "1": {**solved["1"], "general": [0.5, 0.75]}}
    told: dict[str, Any] = {"neurons": grouped(tmp_path / "neurons"), "coefficients": solved, "lambda": 0.5}
    plain = {**told, "general": "sublin", "others": "task_arithmetic"}
    recipe = recipe_of(made, "neuronmerge", **plain)
    live = LiveMerge(hold_family(recipe), recipe)
    assert changed(live, recipe) == list(live.family.names)
    choices: list[tuple[dict[str, Any], list[str]]] = [
        ({"coefficients": another}, NEURONS[3:]),
        ({"specific": {"math": "own"}}, NEURONS[:3]),  # the second layer has no such neurons
        ({"specific": {"code": {"method": "ties", "density": 0.5}}}, NEURONS),
        ({"lambda": 0.7}, [name for name in live.family.names if name not in NEURONS]),
        ({"neurons": grouped(tmp_path / "others", code=9)}, NEURONS),
        ({"neurons": grouped(tmp_path / "equal")}, []),
        ({"lists": {"loud": [[1, 4]]}}, NEURONS[3:]),
        ({"lists": {"loud": [[0, 4]]}, "specific": {"loud": {"method": "own", "of": "code"}}}, NEURONS[:3]),
    ]
    for number, (own, expected) in enumerate(choices):
        live.follow(recipe)
        tuned = recipe_of(made, "neuronmerge", **(plain | own))
        assert changed(live, tuned) == expected
        assert_as_merged(live, tuned, tmp_path / str(number))


@pytest.mark.parametrize("by", ["neuromerging", {"method": "ties", "density": 0.5}, "tsv_m"])
def test_factors_of_changes_touch_the_tensors_of_their_neurons_alone(
    made: SimpleNamespace, tmp_path: Path, by: Any
) -> None:
    """What was found of a block for some factors is not taken for others, nor for the changes as they are."""

    def recipe(own: Any, specific: Any = by) -> Recipe:
        chosen = {"math": {"method": "amplify", "own": own, "by": by}, "code": specific}
        parts = {"general": "task_arithmetic", "others": "task_arithmetic"}
        return recipe_of(made, "neuronmerge", neurons=str(tmp_path / "neurons"), specific=chosen, **parts)

    grouped(tmp_path / "neurons")
    live = LiveMerge(hold_family(recipe(2)), recipe(2))
    expected = [list(live.family.names), NEURONS[:3], [], NEURONS[:3]]  # the second layer has no math neurons
    for number, own in enumerate((2, 3, [3, 0], 1)):
        assert changed(live, recipe(own)) == expected[number]
        assert_as_merged(live, recipe(own), tmp_path / str(number))


def grouped(folder: Path, code: int = 7) -> str:
    """Write a classification whose second layer has no math neurons; neuron `code` and every tenth after is code's."""
    rows = [
        (layer, neuron, "code" if neuron % 10 == code else "math" if not layer and neuron % 5 == 1 else "general")
        for layer in range(2)
        for neuron in range(48)
    ]
    folder.mkdir()
    pd.DataFrame(rows, columns=["layer", "neuron", "category"]).to_parquet(folder / "neurons.parquet")
    return str(folder)


def test_the_same_rule_on_weights_is_not_that_on_differences(made: SimpleNamespace, tmp_path: Path) -> None:
    """Averaging by weights 0.5 and 0.5 and adding half of each difference are one rule, of other numbers."""
    live = LiveMerge(hold_family(recipe_of(made, "linear")), recipe_of(made, "linear"))
    for method in ("linear", "task_arithmetic"):
        same = {"weight": 0.5, "normalize": False} | ({"lambda": 1.0} if method == "task_arithmetic" else {})
        recipe = recipe_of(made, method, "", **same)
        live.follow(recipe)
        assert_as_merged(live, recipe, tmp_path / method)


def test_a_recipe_that_fails_leaves_no_weight_unnoticed(made: SimpleNamespace, tmp_path: Path) -> None:
    """The first weight that overflows ends it; afterwards every tensor that is not the next recipe's is merged anew."""
    good, bad = (recipe_of(made, "task_arithmetic", "float16", **{"lambda": scale}) for scale in (0.5, 1e8))
    for device in ("cpu", "cpu:0"):
        live = LiveMerge(hold_family(good, device), good)
        live.follow(good)
        with pytest.raises(InputError, match="hold entries that F16 cannot hold"):
            live.follow(bad)
        live.follow(good)
        assert_as_merged(live, good, tmp_path / device)


def test_statistics_of_the_whole_model_are_found_once(made: SimpleNamespace) -> None:
    live = LiveMerge(hold_family(recipe_of(made, "ties")), recipe_of(made, "ties"))
    stages: list[str] = []

    def followed(method: str, **parameters: Any) -> set[str]:
        stages.clear()
        live.follow(recipe_of(made, method, **parameters), lambda stage, *_: stages.append(stage))
        return set(stages)

    assert followed("ties", density=0.3) == {"Counting magnitudes", "Magnitudes", "Merging"}
    assert followed("ties", density=0.5) == followed("neuromerging") == {"Magnitudes", "Merging"}
    assert followed("ties", density=0.3) == {"Merging"}


def test_recipes_of_other_models_or_dtypes_are_refused(made: SimpleNamespace) -> None:
    recipe = recipe_of(made, "linear")
    live = LiveMerge(hold_family(recipe), recipe)
    with pytest.raises(InputError, match="expected a recipe of the models"):
        live.follow(load_recipe({"merge_method": "linear", "models": [{"model": made.math}]}))
    with pytest.raises(InputError, match="expected the dtype None, found float16"):
        live.follow(recipe_of(made, "linear", "float16"))
