from pathlib import Path

import numpy as np
import pytest

from nmerge_core.errors import InputError
from nmerge_core.family import Member
from nmerge_core.merging.recipe.reading import load_recipe

TIES = """
models:
  - model: base
  - model: math
    parameters: {density: 0.5, weight: 0.5}
  - model: code
    parameters:
      weight: 0.3
merge_method: ties
base_model: base
parameters:
  normalize: true
  int8_mask: true
dtype: float16
"""


def test_mergekits_example_reads_as_people_have_it() -> None:
    recipe = load_recipe(TIES)
    assert recipe.references == ("math", "code")  # the base among the models is not merged with itself
    values = recipe.values()
    assert values.each["weight"] == (0.5, 0.3)
    assert values.each["density"] == (0.5, 0.2)  # beside the model, else the default
    assert values.shared["normalize"] is True and values.shared["trim"] == "auto"
    assert recipe.dtype == "float16"


def test_a_key_that_is_there_twice_is_refused() -> None:
    with pytest.raises(InputError, match="recipe: not readable as YAML .*the key 'weight' a second time"):
        load_recipe(TIES.replace("weight: 0.5}", "weight: 0.5, weight: 0.9}"))


def test_a_title_has_short_names() -> None:
    recipe = load_recipe(TIES.replace("model: math", "model: /models/a/math").replace("model: code", "model: org/code"))
    assert recipe.title({}) == "TIES-Merging of math, code"
    assert recipe.title({"org/code": "coder"}, ["math", "coder"]) == "TIES-Merging"


def test_a_slice_of_a_corpus_is_found_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "recipe.yaml").write_text(TIES)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.corpus("corpus[:-60]") == f"{tmp_path / 'corpus'}[:-60]"
    assert recipe.corpus("elsewhere[-60:]") == "elsewhere[-60:]"


def test_a_mapping_may_hold_what_python_has_for_what_yaml_has() -> None:
    written = {
        "merge_method": "ties",
        "base_model": "models/base",
        "models": [{"model": "math", "parameters": {"weight": [0.25, 0.5]}}, {"model": "lab/code"}],
        "parameters": {"density": [0.5, 1.0], "lambda": 0.75, "normalize": True},
        "tokenizer": {"source": "math"},
        "seed": 3,
    }
    given = {
        "merge_method": "ties",
        "base_model": Path("models/base"),
        "models": (
            {"model": Path("math"), "parameters": {"weight": np.array([0.25, 0.5])}},
            {"model": Member("lab/code", "code")},
        ),
        "parameters": {"density": (0.5, 1.0), "lambda": np.float32(0.75), "normalize": np.bool_(True)},
        "tokenizer": {"source": Path("math")},
        "seed": np.int64(3),
    }
    assert load_recipe(given) == load_recipe(written) and load_recipe(given).yaml == load_recipe(written).yaml
    assert isinstance(given["models"], tuple)  # what was given stays


def test_written_recipe_reads_the_same() -> None:
    recipe = load_recipe(TIES)
    again = load_recipe(recipe.yaml)
    assert again.values() == recipe.values() and again.references == recipe.references


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"densty": 0.2}}, "unknown key 'densty'; did you mean 'density'?"),
        ({"normalise": True}, "unknown key 'normalise'"),
        ({"models": [{"model": "math", "parameters": {"wieght": 1}}]}, "did you mean 'weight'?"),
        (
            {"models": [{"model": "math", "parameters": {"lambda": 1}}]},
            "models[0] (ties): 'lambda' is said once for all models, in 'parameters'",
        ),
        (
            {"models": [{"model": "math", "parameters": {"category": "math"}}]},
            "'category' (it is a parameter of adamerging, fisher, lorahub, neuronmerge, regmean, regmean_pp, sublin, "
            "aim; leave it out here); known keys: weight, density",
        ),
        ({"models": [{"model": "base"}]}, "at least one model besides the base"),
        ({"models": "math"}, "key 'models': expected a list"),
        ({"models": ["math"]}, "key 'models[0]': expected {model: path-or-id"),
        (
            {"merge_method": "neuromerge"},
            "key 'merge_method': found 'neuromerge'; did you mean 'neuronmerge' or 'neuromerging'? (`nmerge methods`",
        ),
        ({"base_model": None}, "key 'base_model': ties merges differences from a base"),
        ({"parameters": {"density": 20}}, "'parameters.density': expected a number in (0, 1], found 20"),
        ({"parameters": {"density": 0}}, "expected a number in (0, 1], found 0"),
        ({"parameters": {"density": "half"}}, "found 'half'"),
        ({"parameters": {"lambda": float("inf")}}, "found inf (float32 holds finite numbers up to 3.4e38)"),
        ({"parameters": {"weight": [1.0, 1e39]}}, "'parameters.weight[1]': expected a number, found 1e+39"),
        ({"parameters": {"normalize": 2}}, "expected true or false, found 2"),
        ({"parameters": {"trim": "layer"}}, "expected one of auto, model, tensor, found 'layer'"),
        ({"parameters": {"weight": True}}, "expected a number, found True"),
        (
            {"parameters": {"weight": []}},
            "expected a list of numbers (a gradient over the layers) or of {filter, value}",
        ),
        ({"parameters": {"weight": [0.5, {"value": 1}]}}, "expected a list of numbers"),
        ({"parameters": {"weight": [{"filtre": "mlp", "value": 1}]}}, "weight[0]': expected {filter"),
        ({"dtype": ["bfloat16"]}, "key 'dtype': expected one of float32"),
        ({"dtype": "bf16"}, "key 'dtype': expected one of float32, bfloat16, float16; found 'bf16'"),
        ({"seed": -1}, "key 'seed': expected a whole number from 0, found -1"),
    ],
)
def test_what_is_wrong_is_named(change: dict, message: str) -> None:
    recipe = {"merge_method": "ties", "base_model": "base", "models": [{"model": "math"}], **change}
    with pytest.raises(InputError) as error:
        load_recipe(recipe)
    assert message in str(error.value)


def test_a_model_in_the_place_of_a_recipe(tmp_path: Path) -> None:
    expected = "expected a recipe, a YAML file with merge_method and models; found"
    for name, own, found in (
        ("model.safetensors", (), "weights; name the folder that they are in, in a recipe, under 'models'"),
        ("base", ("config.json",), "a model; name it in a recipe, under 'models'"),
        (
            "merged",
            ("config.json", "nmerge_recipe.yaml"),
            f"a merge; its own recipe is {tmp_path}/merged/nmerge_recipe",
        ),
    ):
        for each in own:
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / each).touch()
        with pytest.raises(InputError) as error:
            load_recipe(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: {expected} {found}")


def test_a_file_that_is_not_yaml(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    with pytest.raises(InputError, match="recipe.yaml: cannot be read"):
        load_recipe(file)
    file.write_text("models: [")
    with pytest.raises(InputError, match="recipe.yaml: not readable as YAML"):
        load_recipe(file)
    file.write_text("- 1")
    with pytest.raises(InputError, match="expected a mapping with merge_method"):
        load_recipe(file)


def test_auto_and_per_category_values() -> None:
    recipe = {
        "merge_method": "neuronmerge",
        "base_model": "base",
        "models": [{"model": "math", "parameters": {"category": "math"}}],
        "parameters": {"lambda_2": "auto", "specific": {"math": "own"}},
    }
    values = load_recipe(recipe).values()
    assert values.shared["lambda_2"] == "auto" and values.shared["specific"] == {"math": "own"}
    recipe["parameters"] = {"specific": {"math": "keep"}}
    wanted = "specific.math.: expected one of drop, own, .*, or .category: any of these., found .keep."
    with pytest.raises(InputError, match=wanted):
        load_recipe(recipe)


def test_a_key_left_blank_is_a_key_left_out() -> None:
    recipe = load_recipe("merge_method: ties\nbase_model: b\nmodels: [{model: m}]\nparameters: {density: , trim: }\n")
    assert recipe.values().each["density"] == (0.2,) and recipe.values().shared["trim"] == "auto"


def test_a_large_lambda_that_was_solved_is_read_again() -> None:
    recipe = {"merge_method": "neuromerging", "base_model": "b", "models": [{"model": "m"}]}
    solved = load_recipe({**recipe, "parameters": {"lambda_2": 27.6}})
    assert load_recipe(solved.yaml).values().shared["lambda_2"] == 27.6
