"""What a sweep's YAML says, and every way in which it can be wrong."""

from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml

from nmerge_core.errors import InputError
from nmerge_core.search.axis import Axis, read_axis
from nmerge_core.search.plan import Sweep
from nmerge_core.search.reading import load_sweep
from nmerge_core.search.samplers import draw, grid, make_sampler

RECIPE = {
    "merge_method": "ties",
    "base_model": "base",
    "models": [{"model": "math", "parameters": {"weight": 0.5}}, {"model": "code"}],
    "parameters": {"lambda": [0.5, 1.0]},
}


def load(folder: Path, search: dict, recipe: object = RECIPE, **more: object) -> Sweep:
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({"recipe": recipe, "search": search, "tasks": ["math"], **more}, sort_keys=False))
    return load_sweep(file)


def test_a_grid_tries_every_combination_in_the_order_written(tmp_path: Path) -> None:
    plan = load(tmp_path, {"parameters.density": [0.1, 0.2], "dtype": ["float32", "bfloat16", "float16"]})
    assert plan.trials == 6
    assert [tuple(axis.value(place[axis.key]) for axis in plan.axes) for place in grid(plan.axes)] == [
        (0.1, "float32"), (0.1, "bfloat16"), (0.1, "float16"),
        (0.2, "float32"), (0.2, "bfloat16"), (0.2, "float16"),
    ]  # fmt: skip
    recipe = plan.recipe_at({"parameters.density": 0.2, "dtype": "float16"})
    assert recipe.values().each["density"] == (0.2, 0.2) and recipe.dtype == "float16"
    assert recipe.values().each["weight"] == (0.5, 1.0)


def test_paths_reach_models_and_points_of_a_gradient(tmp_path: Path) -> None:
    keys = ["models[1].parameters.weight", "parameters.lambda[0]", "models[0].model"]
    plan = load(tmp_path, {keys[0]: [0.1, 0.2], keys[1]: [0.3, 0.4], keys[2]: ["math", "other"]})
    recipe = plan.recipe_at({keys[0]: 0.2, keys[1]: 0.4, keys[2]: "other"})
    assert recipe.references == ("other", "code")
    assert recipe.values().each["weight"] == (0.5, 0.2) and recipe.values().shared["lambda"] == [0.4, 1.0]
    assert plan.recipe["parameters"]["lambda"] == [0.5, 1.0]  # what was written stays


@pytest.mark.parametrize(
    ("then", "keys"),
    [
        (["svc", {"method": "aim", "corpus": "c"}], ("then[0].alpha", "then[1].samples")),
        ("svc", ("then.alpha", "seed")),
    ],
)
def test_parameters_of_steps_are_searched_also_of_those_that_are_names(tmp_path: Path, then, keys) -> None:
    plan = load(
        tmp_path, {keys[0]: [0.2, 0.4], keys[1]: {"low": 2, "high": 9}}, {**RECIPE, "then": then}, strategy="random"
    )
    recipe = plan.recipe_at({keys[0]: 0.4, keys[1]: plan.axes[1].value(4.3)})
    assert recipe.then[0].parameters["alpha"] == 0.4 and 4 in (recipe.seed, recipe.then[-1].parameters.get("samples"))


def test_a_recipe_may_be_a_file_beside_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "own.yaml").write_text("task: own")
    plan = load(tmp_path, {"parameters.density": [0.1]}, "recipe.yaml", tasks=["own.yaml", "math"])
    assert plan.recipe == RECIPE and plan.folder == tmp_path
    assert plan.tasks == (str(tmp_path / "own.yaml"), "math")


def test_a_sweep_may_be_text_or_what_python_has_for_what_yaml_has(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    search = {"parameters.density": [0.25, 0.5], "seed": [0, 1]}
    written = {"recipe": RECIPE, "search": search, "tasks": ["math"]}
    expected = load_sweep(written)
    text = yaml.safe_dump(written)
    assert load_sweep(text) == load_sweep({**written, "recipe": yaml.safe_dump(RECIPE)}) == expected
    given = {"parameters.density": np.array([0.25, 0.5]), "seed": (0, 1)}
    (tmp_path / "recipe").write_text(yaml.safe_dump(RECIPE))
    found = load_sweep({"recipe": Path("recipe"), "search": given, "tasks": (Path("math"),)})
    assert found == expected and found.content == expected.content
    with pytest.raises(InputError, match="^sweep: unknown key 'searhc'; did you mean 'search'"):
        load_sweep(text.replace("search:", "searhc:"))
    with pytest.raises(InputError, match="^sweep: not readable as YAML .*the key 'tasks' a second time"):
        load_sweep(f"{text}tasks: [code]\n")
    with pytest.raises(InputError, match="^sweep: expected a mapping with recipe, search"):
        load_sweep("- 1\n- 2\n")


def test_a_sweep_and_its_recipe_may_lie_in_the_users_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    expected = load(tmp_path, {"seed": [0, 1]}, "recipe.yaml")
    assert load_sweep("~/sweep.yaml") == load_sweep(Path("~/sweep.yaml")) == expected
    assert load_sweep({"recipe": "~/recipe.yaml", "search": {"seed": [0, 1]}, "tasks": ["math"]}) == expected


def test_values_of_what_is_drawn_on_an_axis() -> None:
    assert [read_axis("a", [1, "b", None], whole=False).value(place) for place in (0, 1, 2)] == [1, "b", None]
    assert read_axis("a", {"low": 1, "high": 3}, whole=False).value(1.23456789) == 1.23457
    assert read_axis("a", {"low": 1, "high": 4}, whole=True).ends == (1, 4)
    lists = ([1, 2.5], [2, 1], [1, 1], ["a", "b"], [0, True])
    assert [read_axis("a", values, whole=False).rises for values in lists] == [True, False, False, False, False]


def drawn(axes: list[Axis], strategy: str, count: int, seed: int = 0, value=lambda point: 0.0) -> list[dict]:
    study, points = optuna.create_study(direction="maximize"), []
    for number in range(count):
        study.sampler = make_sampler(strategy, seed, number)
        trial = study.ask()
        points.append(draw(trial, axes, ordered=strategy == "cma"))
        study.tell(trial, value(points[-1]))
    return points


def test_whole_numbers_where_the_recipe_takes_them(tmp_path: Path) -> None:
    recipe = {**RECIPE, "merge_method": "sublin", "parameters": {}, "models": [{"model": "math"}]}
    plan = load(tmp_path, {"parameters.samples": {"low": 1, "high": 9}}, recipe, strategy="random", trials=3)
    assert all(isinstance(point["parameters.samples"], int) for point in drawn(list(plan.axes), "random", 5))


def test_random_points_depend_on_seed_and_number_alone() -> None:
    axes = [Axis("a", low=2.0, high=4.0), Axis("b", values=("x", "y"))]
    first, again, other = (drawn(axes, "random", 20, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert all(2 <= point["a"] <= 4 for point in first) and {point["b"] for point in first} == {"x", "y"}


@pytest.mark.parametrize("strategy", ["tpe", "cma", "nsga2"])
def test_a_search_goes_where_objectives_are_large(strategy: str) -> None:
    axes = [
        Axis("a", low=-1.0, high=3.0),
        Axis("b", values=(0.01, 0.1, 1.0, 10.0)),
        Axis("c", low=1, high=9, whole=True),
    ]

    def value(point: dict) -> float:
        return -((point["a"] - 2) ** 2) - (point["b"] - 0.1) ** 2 - (point["c"] - 7) ** 2

    found, random = drawn(axes, strategy, 50, 3, value), drawn(axes, "random", 50, 3, value)
    assert sum(map(value, found[25:])) > sum(map(value, random[25:])) / 2
    assert max(map(value, found)) > -0.2


@pytest.mark.parametrize(
    ("search", "more", "message"),
    [
        ({"parameters.lamda": [1.0]}, {}, "unknown key 'lamda'.*did you mean 'lambda'"),
        ({"parameter.lambda": [1.0]}, {}, "unknown key 'parameter'; did you mean 'parameters'"),
        ({"models[2].parameters.weight": [1.0]}, {}, "expected a list with an entry 2, 2 entries"),
        ({"models.weight": [1.0]}, {}, "'models.weight': expected a mapping that holds weight"),
        ({"parameters.lambda[x]": [1.0]}, {}, "expected a path into the recipe such as"),
        ({"parameters.lambda": [n / 2000 for n in range(1001)]}, {}, "expected at most 1,000 values, found 1,001"),
        ({"parameters.density": [0.1, 20]}, {}, r"'parameters.density': expected a number in \(0, 1\]"),
        ({"parameters.density": {"low": 0.0, "high": 1.0}}, {"strategy": "cma"}, r"a number in \(0, 1\], found 0"),
        ({"parameters.weight": [0.1, 0.2]}, {"recipe": "both"}, "weight': 0.1 and 0.2 make the same recipe"),
        ({"parameters.density": {"low": 1, "high": 0}}, {}, "expected numbers low < high"),
        ({"parameters.density": {"low": 0, "high": 1, "log": True}}, {}, "expected numbers low < high"),
        ({"seed": {"low": 0.4, "high": 9, "log": True}}, {"strategy": "tpe"}, r"low < high \(from 1 with log: true\)"),
        ({"parameters.density": {"low": 0, "hi": 1}}, {}, r"expected \[value, …\] or {low: …, high: …}"),
        ({"parameters.density": []}, {}, r"expected \[value, …\]"),
        ({"parameters.density": {"low": 0.1, "high": 1}}, {}, "'search': expected lists of values for strategy: grid"),
        ({}, {}, "'search': expected a path"),
        ({"seed": [1, 2]}, {"stratgy": "cma"}, "unknown key 'stratgy'; did you mean 'strategy'"),
        ({"seed": [1, 2]}, {"strategy": "cme"}, "'strategy': expected one of grid, random, tpe, cma, nsga2"),
        ({"seed": [1, 2]}, {"keep": "last"}, "'keep': expected one of best, all, none"),
        ({"seed": [1, 2]}, {"keep": 0}, "'keep': expected one of best, all, none, or how many of the best"),
        ({"seed": [1, 2]}, {"minutes": 0}, "'minutes': expected a number above 0"),
        ({"seed": [1, 2]}, {"prune": 1}, "'prune': expected true or false"),
        ({"seed": [1, 2]}, {"loss": "corpus"}, "'loss': expected a corpus .* in place of `tasks`"),
        ({"seed": [1, 2]}, {"tasks": None}, "'tasks': expected a list of tasks .* or in their place `loss`"),
        ({"seed": [1, 2]}, {"objectives": ["math"]}, "'objectives': expected a list of two or more"),
        ({"seed": [1, 2]}, {"objectives": ["a", "b"], "objective": {"a": 1}}, "'objective': expected it or"),
        ({"seed": [1, 2]}, {"objectives": ["a", "b"], "prune": True}, "'prune': expected no pruning with several"),
        ({"seed": [1, 2]}, {"objectives": ["a", "b"], "strategy": "cma"}, "'strategy': expected nsga2, tpe, random or"),
        ({"seed": [1, 2]}, {"trials": 0}, "'trials': expected a whole number from 1"),
        ({"seed": [1, 2]}, {"limit": 0.5}, "'limit': expected a whole number from 1"),
        ({"seed": [1, 2]}, {"tasks": []}, "'tasks': expected a list of tasks"),
        ({"seed": [1, 2]}, {"objective": {"math": -1}}, "'objective': expected {task: weight above 0}"),
        ({"seed": [1, 2]}, {"recipe": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
        ({"seed": [1, 2]}, {"recipe": 3}, "'recipe': expected a recipe or the path of one"),
    ],
)  # fmt: skip
def test_wrong_sweeps_are_named(tmp_path: Path, search: dict, more: dict, message: str) -> None:
    if more.get("recipe") == "both":
        both = [{"model": model, "parameters": {"weight": 1.0}} for model in ("math", "code")]
        more = {"recipe": {**RECIPE, "models": both}}
    with pytest.raises(InputError, match=message):
        load(tmp_path, search, **more)


def test_a_missing_key_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("recipe: recipe.yaml\n")
    with pytest.raises(InputError, match="sweep.yaml: the key 'search' is missing"):
        load_sweep(tmp_path / "sweep.yaml")
    with pytest.raises(InputError, match="nowhere.yaml: cannot be read"):
        load_sweep(tmp_path / "nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match="expected a mapping with recipe, search"):
        load_sweep(tmp_path / "list.yaml")


def test_keys_have_names_as_people_write_them(tmp_path: Path) -> None:
    content: dict = {"models": [{"model": "a"}], "parameters": {"specific": None}}
    read_axis("parameters.specific.math word-problems", ["own"], whole=False).put(content, "own")
    read_axis("models[0].parameters.weight", [1], whole=False).put(content, 1)
    read_axis("models.0.parameters.density", [0.5], whole=False).put(content, 0.5)  # as some write it
    assert content["parameters"] == {"specific": {"math word-problems": "own"}}
    assert content["models"] == [{"model": "a", "parameters": {"weight": 1, "density": 0.5}}]
    (tmp_path / "problems.jsonl").touch()
    own = {"gsm8k=problems.jsonl": 2.0}
    plan = load(tmp_path, {"seed": [1, 2]}, tasks=["gsm8k=problems.jsonl"], objective=own)
    assert plan.tasks == (f"gsm8k={tmp_path / 'problems.jsonl'}",)
    assert plan.objectives == ({plan.tasks[0]: 2.0},)
