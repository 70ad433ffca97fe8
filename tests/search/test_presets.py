"""What the papers search, with the values that they name."""

import pytest

from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.search.presets import MODELS, presets_of
from nmerge_core.search.reading import load_sweep

NAMES = ("math", "code", "translation")


def recipe_of(method: str, models: list[dict] | None = None) -> dict:
    models = models or [{"model": name, "parameters": {"category": name}} for name in NAMES]
    return {"merge_method": method, "base_model": "base", "models": models, "parameters": {}}


def search_of(method: str, title: str) -> dict:
    [found] = [preset for preset in presets_of(recipe_of(method)) if preset.title == title]
    return dict(found.search)


def test_ranges_have_the_ends_and_steps_of_the_papers() -> None:
    assert search_of("task_arithmetic", "Scale α from 0.1 to 0.9")["parameters.weight"] == [
        0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9,
    ]  # fmt: skip
    tuned = search_of("ties", "Density × λ, 172 points")  # 4 ratios; from 0.8 to 5.0 by 0.1 are 43
    assert tuned["parameters.density"] == [0.05, 0.1, 0.15, 0.2]
    assert len(tuned["parameters.lambda"]) == 43 and tuned["parameters.lambda"][-1] == 5.0
    heat_map = search_of("neuromerging", "λ1 × λ2, 121 points")
    assert [len(values) for values in heat_map.values()] == [11, 11]
    assert heat_map["parameters.lambda_2"][:2] == [3.0, 3.1]


def test_own_neurons_of_three_tasks_are_27_choices() -> None:
    own = search_of("neuronmerge", "Each task's own neurons, 27 points")
    assert own == {f"parameters.specific.{name}": ["own", "merge", "drop"] for name in NAMES}


def test_pairs_and_triples_are_of_the_recipe_s_models() -> None:
    subsets = search_of("ties", "Pairs and triples of fine-tunes")[MODELS]
    named = [[model["model"] for model in some] for some in subsets]
    assert named == [["math", "code"], ["math", "translation"], ["code", "translation"], list(NAMES)]
    assert all(preset.search.keys() != {MODELS} for preset in presets_of(recipe_of("ties", [{"model": "math"}] * 2)))


METHODS = ["task_arithmetic", "dare_linear", "dare_ties", "ties", "pcb", "neuromerging", "neuronmerge"]


@pytest.mark.parametrize("method", METHODS)
def test_every_preset_is_a_sweep_that_can_be_read(method: str) -> None:
    each = [{"category": name} if method == "neuronmerge" else {} for name in NAMES]
    recipe = recipe_of(method, [{"model": name, "parameters": own} for name, own in zip(NAMES, each, strict=True)])
    for preset in presets_of(recipe):
        chosen = recipe | {"parameters": {**preset.parameters}}
        load_recipe(chosen)
        plan = load_sweep({"recipe": chosen, "search": dict(preset.search), "tasks": ["t"]})
        assert plan.trials is not None and plan.trials > 1
