from typing import Any

import pytest

from nmerge_core.merging.recipe.changes import Change, changes, told
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe

NAMES = {"/m": "math", "/c": "code"}


def recipe(method: str = "ties", each: Any = ({}, {}), scale: Any = None, **given: Any) -> Recipe:
    """A recipe of two models; `scale` is its λ."""
    top = {key: given.pop(key) for key in ("dtype", "seed") if key in given}
    models = [{"model": name, "parameters": own} for name, own in zip(NAMES, each, strict=True)]
    content: dict[str, Any] = {"merge_method": method, "base_model": "/b", "models": models}
    return load_recipe(content | {"parameters": given if scale is None else given | {"lambda": scale}} | top)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (recipe(), recipe(), []),
        (recipe(), recipe(scale=1.0), []),  # the default, written out
        (recipe(), recipe(scale=0.7), [Change("λ", "1", "0.7")]),
        (recipe(), recipe(density=0.3), [Change("Density", "0.2", "0.3")]),  # of every model alike
        (recipe(), recipe(each=({"density": 0.3}, {})), [Change("Density of math", "0.2", "0.3")]),
        (recipe(weight=[0, 1]), recipe(), [Change("Weight", "0, 1", "1")]),
        (recipe(), recipe(dtype="float16"), [Change("Written as", "as the base", "float16")]),
        (recipe(), recipe(seed=3), [Change("Seed", "0", "3")]),
        (recipe(normalize=False), recipe(), [Change("Normalize", "no", "yes")]),
        # of two methods only what both have and one changed: the densities' defaults differ
        (
            recipe(),
            recipe("dare_ties", scale=2),
            [Change("Method", "TIES-Merging", "DARE + TIES"), Change("λ", "1", "2")],
        ),
        # and what only one of them has
        (
            recipe(each=({"weight": [0, 1]}, {})),
            recipe("neuromerging", lambda_1=0.3),
            [
                Change("Method", "TIES-Merging", "NeuroMerging"),
                Change("λ1", "", "0.3"),
                Change("Weight of math", "0, 1", ""),
                Change("Weight of code", "1", ""),
            ],
        ),
        (
            recipe("neuronmerge", specific={"math": "own"}),
            recipe("neuronmerge", specific={"math": {"method": "ties", "density": 0.5}, "code": "own"}),
            [Change("Specific of math", "own", "ties (density 0.5)"), Change("Specific of code", "", "own")],
        ),
        (  # one choice for all is that of each
            recipe("neuronmerge", lists={"loud": [[0, 1]]}),
            recipe(
                "neuronmerge",
                lists={"loud": [[0, 1], [3, 7], [0, 4]], "own": "mine.csv"},
                specific={"math": "drop", "loud": {"method": "own", "of": "math"}},
            ),
            [
                Change("Lists of loud", "1 neuron (layer 0: 1)", "3 neurons (layer 0: 1, 4; layer 3: 7)"),
                Change("Lists of own", "", "mine.csv"),
                Change("Specific of loud", "drop", "own (of math)"),
            ],
        ),
    ],
)
def test_what_two_recipes_say_differently(before: Recipe, after: Recipe, expected: list[Change]) -> None:
    assert changes(before, after, NAMES) == expected


def test_a_change_is_said_in_one_breath() -> None:
    assert str(Change("λ", "0.5", "0.7")) == "λ 0.5 → 0.7"
    assert str(Change("Specific of code", "", "own")) == "Specific of code – → own"


def test_a_merge_is_named_by_what_is_no_default() -> None:
    assert told(recipe(), NAMES) == told(recipe(scale=1), NAMES) == "TIES-Merging"
    named = recipe(each=({"density": [0.1, 0.2, 0.3, 0.4, 0.5]}, {}), seed=3, scale=0.5)
    assert told(named, NAMES) == "TIES-Merging, Density of math 0.1, 0.2, …, 0.5, λ 0.5, Seed 3"
    read = recipe("neuronmerge", ({"category": "math"}, {"category": "code"}), neurons="/runs/1", margin=2)
    assert told(read, NAMES) == "NeuronMerge, Margin 2"
