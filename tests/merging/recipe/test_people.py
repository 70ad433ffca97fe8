"""Recipes as people have them for mergekit: they mean the same here, or a sentence says what to write."""

import json
from pathlib import Path

import pytest

from nmerge_core.errors import InputError
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.search.reading import load_sweep


def recipe(parameters: str = "{}", beside: str = "{}", method: str = "ties", more: str = "") -> Recipe:
    return load_recipe(
        f"merge_method: {method}\nbase_model: b\nmodels:\n  - model: b  # no parameters\n"
        f"  - model: m\n    parameters: {beside}\nparameters: {parameters}\n{more}"
    )


@pytest.mark.parametrize(
    ("parameters", "name", "value"),
    [
        ("{normalize: 1.0}", "normalize", True),
        ("{normalize: 0}", "normalize", False),
        ("{normalize: 'true'}", "normalize", True),
        ("{weight: 1e-1}", "weight", (0.1,)),
        ("{weight: '0.5'}", "weight", (0.5,)),
        ("{weight: 5}", "weight", (5.0,)),
        ("{weight: -3}", "weight", (-3.0,)),
        ("{weight: [0, 5e-1, 1]}", "weight", ([0.0, 0.5, 1.0],)),
        ("{weight: {filter: mlp, value: 0.5}}", "weight", ([{"filter": "mlp", "value": 0.5}],)),
        (
            "{weight: [{filter: mlp, value: [0, 1]}, {filter: null, value: 1e-1}]}",
            "weight",
            ([{"filter": "mlp", "value": [0.0, 1.0]}, {"value": 0.1}],),
        ),
        ("{rescale: false, int8_mask: true, lambda: 1_0}", "lambda", 10.0),
        ("", "lambda", 1.0),
    ],
)
def test_values_as_mergekit_takes_them(parameters: str, name: str, value: object) -> None:
    found = recipe(parameters)
    values = found.values()
    assert {**values.shared, **values.each}[name] == value
    assert load_recipe(found.yaml).values() == values
    if name == "weight":
        assert recipe(beside=parameters).values() == values


def test_formats_as_mergekit_takes_them() -> None:
    assert recipe(more="dtype: torch.bfloat16").dtype == "bfloat16"
    assert recipe("{normalize: true, density: 1.0, rescale: false}", method="task_arithmetic").references == ("m",)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({"parameters": "{rescale: true}"}, "'rescale' (it is a parameter of dare_linear"),
        ({"parameters": "{rescale: true}"}, "write `engine: mergekit` in the recipe"),
        ({"parameters": "{dtype: bfloat16}"}, "(it is no parameter: write it at the top of the recipe)"),
        ({"more": "density: 0.5"}, "(it is a parameter: write `parameters: {density: …}`)"),
        ({"parameters": "{weight: [[0, 1]]}"}, "'parameters.weight[0]': expected a number, found [0, 1]"),
        ({"parameters": "{weight: [0, null]}"}, "'parameters.weight[1]': expected a number, found None"),
        ({"parameters": "{weight: [{value: [0, [1]]}]}"}, "weight[0][1]': expected a number, found [1]"),
        ({"parameters": "{weight: [{value: null}]}"}, "weight[0]': expected a number, found None"),
        ({"parameters": "{weight: 1e999}"}, "float32 holds finite numbers"),
        ({"parameters": "{weight: .nan}"}, "float32 holds finite numbers"),
        ({"parameters": "{weight: half}"}, "expected a number, found 'half'"),
        ({"more": "tokenizer: {3: a, b: c}"}, "unknown key 3; known keys: source, tokens"),
        ({"more": "tokenizer: {source: b, tokens: {1: {source: [b]}}}"}, "found ['b']"),
        ({"parameters": "{weight: 1, weight: 2}"}, "found the key 'weight' a second time"),
    ],
)
def test_what_means_nothing_here_says_what_to_write(made: dict[str, str], expected: str) -> None:
    with pytest.raises(InputError) as error:
        recipe(**made)
    assert expected in str(error.value)


LINEAR = "merge_method: linear\nmodels: [{model: m}, {model: n}]\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LINEAR.replace("linear", "LINEAR"), "found 'LINEAR'; did you mean 'linear'?"),
        (LINEAR.replace("linear", "Slerp"), "found 'Slerp'; did you mean 'slerp'?"),
        ("models: [{model: m}]", "the key 'merge_method' is missing; expected one of"),
        (LINEAR + "base_model: {model: {path: b, revision: main}, lora: l}", "write `base_model: b+l`"),
        ("merge_method: linear\nmodels: [{model: {model: m, lora: {path: l}}}]", "write `model: m+l`"),
        ("merge_method: linear\nmodels: [{model: {model: {path: m}}}]", "write `model: m`"),
        ("merge_method: linear\nmodels: [{model: [m]}]", "expected a folder, a Hub id, or MODEL+ADAPTER, found ['m']"),
        ("base_model: b\ngate_mode: hidden\nexperts: [{source_model: m}]", "of a recipe for mergekit-moe"),
        ("genome: {models: [m], merge_method: ties, layer_granularity: 8}\ntasks: [{name: t}]", "`strategy: cma`"),
        (LINEAR + "random_seed: 5", "an option of mergekit's command; write 'seed'"),
        (LINEAR + "low_cpu_memory: true", "an option of mergekit's command and no part of a recipe; leave it out"),
        (LINEAR + "parameters: {embed_slerp: true}", "of older versions of mergekit, for the rows of tokens"),
        (LINEAR + "tokenizer_source: union\ntokens: {a: {source: m}}", "write `tokenizer: {source: union, tokens: …}`"),
        (LINEAR + "name: first", "one of several recipes in a file"),
        (LINEAR + "---\n" + LINEAR, "'name' in every document but one, found several without"),
        (LINEAR + "dtype: bf16", "found 'bf16'; write bfloat16"),
        (LINEAR + "out_dtype: torch.half", "write float16"),
        (
            LINEAR + "tokenizer: {source: union, pad_to_multiple_of: 8}",
            "'pad_to_multiple_of' is mergekit's; leave it out",
        ),
        ("# nothing\n\n", "found nothing"),
    ],
)
def test_recipes_of_other_commands_and_in_other_forms(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(InputError) as refused:
        load_recipe(tmp_path / "recipe.yaml")
    assert expected in str(refused.value) and "\n" not in str(refused.value)


def test_names_count_from_here_and_else_from_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes, here = tmp_path / "recipes", tmp_path / "here"
    for folder in (recipes / "base", recipes / "math", recipes / "both", recipes / "lora", here / "both"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    entries = [{"model": name} for name in ("math", "both", "lab/coder", "./gone", "base+lora")]
    content = {"merge_method": "ties", "base_model": "base", "models": entries, "tokenizer": "math"}
    (recipes / "recipe.yaml").write_text(json.dumps(content))
    found = load_recipe(recipes / "recipe.yaml")
    base, math, lora = (str(recipes / name) for name in ("base", "math", "lora"))
    assert (found.base_model, *found.references) == (base, math, "both", "lab/coder", "./gone", f"{base}+{lora}")
    assert found.tokenizer.source == math
    search = {"parameters.lambda": {"low": "1e-1", "high": "1e0"}}
    sweep = {"search": search, "strategy": "random", "trials": 2, "tasks": ["plain"]}
    for inside in (content, "recipe.yaml"):
        (recipes / "sweep.yaml").write_text(json.dumps({**sweep, "recipe": inside}))
        plan = load_sweep(recipes / "sweep.yaml")
        assert plan.recipe_at({"parameters.lambda": 0.5}).references == found.references
        assert (plan.axes[0].low, plan.axes[0].high) == (0.1, 1.0)


def test_a_sweep_and_a_recipe_inside_it_have_each_key_once() -> None:
    for text in ("recipe: {merge_method: ties, merge_method: linear}", "recipe: r\ntasks: [a]\ntasks: [b]"):
        with pytest.raises(InputError, match="a second time"):
            load_sweep(f"{text}\nsearch: {{a: [1]}}")
