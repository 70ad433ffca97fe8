"""What the papers search, for a method: ready-made keys and values of a sweep."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

MODELS = "models"  # the recipe's key whose values are which models are merged


@dataclass(frozen=True)
class Preset:
    """A search that a paper shows, or tunes by: what it is called, where it is, and its values by recipe key.

    `parameters` are those of the recipe that it needs set.
    """

    title: str
    paper: str
    search: Mapping[str, list[Any]]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def presets_of(recipe: Mapping[str, Any]) -> list[Preset]:
    """Return the searches that papers show with the method of a recipe, for its models."""
    models: Sequence[Mapping[str, Any]] = recipe[MODELS]
    own = _PRESETS.get(recipe["merge_method"], lambda _: [])(models)
    subsets = [list(some) for count in (2, 3) for some in combinations(models, count)]
    if len(subsets) > 1:
        own.append(Preset("Pairs and triples of fine-tunes", "NeuronMerge, Tables 1 and 5", {MODELS: subsets}))
    return own


def _range(low: float, high: float, step: float) -> list[float]:
    count = round((high - low) / step) + 1
    return [round(low + number * step, 6) for number in range(count)]


_SCALE = Preset("Scale α from 0.1 to 0.9", "NeuronMerge, App. C.3", {"parameters.weight": _range(0.1, 0.9, 0.1)})
_WIDE_SCALE = Preset("Scale λ from 0.2 to 1.5", "NeuroMerging, §5", {"parameters.weight": _range(0.2, 1.5, 0.1)})
_DROP_RATES = Preset("Drop rate from 0.6 to 0.9", "NeuronMerge, App. C.3", {"parameters.density": [0.4, 0.3, 0.2, 0.1]})
_DENSITY = Preset("Density from 0.1 to 0.9", "Yadav et al., 2023", {"parameters.density": _range(0.1, 0.9, 0.1)})
_RATIOS = _range(0.05, 0.2, 0.05)


def _tuned(ratio: str, scale: str) -> list[Preset]:
    """Return the search by which NeuroMerging's authors tune every method that trims, and a coarser one."""
    title = f"{_NAMES[ratio]} × {_NAMES[scale]}"
    keys = f"parameters.{ratio}", f"parameters.{scale}"
    return [
        Preset(f"{title}, 12 points", "NeuroMerging, §5, coarser", dict(zip(keys, (_RATIOS, _FEW), strict=True))),
        Preset(
            f"{title}, 172 points",
            "NeuroMerging, §5",
            dict(zip(keys, (_RATIOS, _range(0.8, 5.0, 0.1)), strict=True)),
        ),
    ]


_NAMES = {"density": "Density", "mask_ratio": "Mask ratio r", "lambda": "λ", "lambda_2": "λ2"}
_FEW = [1.0, 1.5, 2.0]


def _neuromerging(_: Sequence[Mapping[str, Any]]) -> list[Preset]:
    ratio, across, along = (f"parameters.{name}" for name in ("mask_ratio", "lambda_2", "lambda_1"))
    return [
        Preset("λ1 × λ2, 9 points", "NeuroMerging, Fig. 4, coarser", {along: [0.0, 0.5, 1.0], across: _FEW}),
        Preset(
            "λ1 × λ2, 121 points",
            "NeuroMerging, Fig. 4",
            {along: _range(0.0, 1.0, 0.1), across: _range(3.0, 4.0, 0.1)},
            {"mask_ratio": 0.1},
        ),
        Preset("Mask ratio r", "NeuroMerging, Fig. 6", {ratio: [0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0]}),
        *_tuned("mask_ratio", "lambda_2"),
        Preset(
            "Merge functions",
            "NeuroMerging, Table 5",
            {"parameters.merge_function": ["elect_mean", "elect_sum", "mean", "sum"]},
        ),
    ]


def _neuronmerge(models: Sequence[Mapping[str, Any]]) -> list[Preset]:
    parts = ["task_arithmetic", "dare", "sublin"]
    categories = [category for model in models if (category := (model.get("parameters") or {}).get("category"))]
    choices = ["own", "merge", "drop"]
    own: dict[str, list[Any]] = {f"parameters.specific.{category}": choices for category in categories}
    alike = {"specific": dict.fromkeys(categories, choices[0])}  # whatever the recipe has there
    count = len(choices) ** len(categories)
    return [
        Preset("Top k of the vote", "NeuronMerge, Table 9", {"parameters.top_k": [10, 20, 30, 40]}),
        Preset("Margin m of the vote", "NeuronMerge, Table 13", {"parameters.margin": list(range(1, 9))}),
        Preset(
            "Methods for General neurons × for all else",
            "NeuronMerge, Tables 10 and 11",
            {"parameters.general": parts, "parameters.others": parts},
        ),
        Preset(
            "Own × foreign factors, 12 points",
            "our own rule",
            {
                "parameters.specific.own": [1.0, 1.5, 2.0, 3.0],
                "parameters.specific.foreign": [0.6, 0.8, 1.0],
            },
            {"specific": {"method": "amplify"}},
        ),
        *(
            [Preset(f"Each task's own neurons, {count} points", "NeuronMerge, Tables 3 and 12", own, alike)]
            if own
            else []
        ),
        Preset(
            "Groups by function or at random", "NeuronMerge, Table 4", {"parameters.grouping": ["functional", "random"]}
        ),
    ]


_PRESETS: Mapping[str, Callable[[Sequence[Mapping[str, Any]]], list[Preset]]] = {
    "task_arithmetic": lambda _: [_SCALE, _WIDE_SCALE],
    "dare_linear": lambda _: [_DROP_RATES, _SCALE],
    "dare_ties": lambda _: [_DROP_RATES, *_tuned("density", "lambda")],
    "ties": lambda _: [*_tuned("density", "lambda"), _DENSITY],
    "pcb": lambda _: _tuned("mask_ratio", "lambda"),
    "neuromerging": _neuromerging,
    "neuronmerge": _neuronmerge,
}
