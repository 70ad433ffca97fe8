"""What the papers search, for a method: ready-made keys and values of a sweep."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_TENTHS = [number / 10 for number in range(1, 10)]
_PARTS = ["task_arithmetic", "dare", "sublin"]


@dataclass(frozen=True)
class Preset:
    """A search that a paper shows, or tunes by: what it is called, where it is, and its values by recipe key.

    `parameters` are those of the recipe that it needs set.
    """

    title: str
    paper: str
    search: Mapping[str, list[Any]]
    parameters: Mapping[str, Any] = field(default_factory=dict)


_SCALE = Preset("Scale α from 0.1 to 0.9", "Ilharco et al., ICLR 2023", {"parameters.weight": _TENTHS})
_DENSITY = Preset("Density from 0.1 to 0.9", "Yu et al., ICML 2024", {"parameters.density": _TENTHS})
_GRID = Preset(
    "Density × λ",
    "Yadav et al., NeurIPS 2023",
    {"parameters.density": [0.1, 0.2, 0.3], "parameters.lambda": [0.5, 1.0, 1.5]},
)
_PRESETS: Mapping[str, tuple[Preset, ...]] = {
    "task_arithmetic": (_SCALE,),
    "dare_linear": (_DENSITY, _SCALE),
    "dare_ties": (_DENSITY, _GRID),
    "ties": (_GRID, _DENSITY),
    "neuromerging": (
        Preset(
            "λ1 × λ2",
            "NeuroMerging, Fig. 4",
            {"parameters.lambda_1": [0.0, 0.5, 1.0], "parameters.lambda_2": [1.0, 1.5, 2.0]},
        ),
        Preset("Mask ratio r", "NeuroMerging, Fig. 6", {"parameters.mask_ratio": [0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1]}),
        Preset(
            "Mask ratio r × λ2",
            "NeuroMerging, §4",
            {"parameters.mask_ratio": [0.05, 0.1, 0.15, 0.2], "parameters.lambda_2": [1.0, 1.5, 2.0]},
        ),
        Preset(
            "Merge functions",
            "NeuroMerging, Table 5",
            {"parameters.merge_function": ["elect_mean", "elect_sum", "mean", "sum"]},
        ),
    ),
    "neuronmerge": (
        Preset("Top k of the vote", "NeuronMerge, Table 9", {"parameters.top_k": [10, 20, 30, 40]}),
        Preset("Margin m of the vote", "NeuronMerge, Table 13", {"parameters.margin": list(range(1, 9))}),
        Preset(
            "Methods for General neurons × for all else",
            "NeuronMerge, Tables 10 and 11",
            {"parameters.general": _PARTS, "parameters.others": _PARTS},
        ),
        Preset(
            "What a task's own neurons become",
            "NeuronMerge, Tables 3 and 12",
            {"parameters.specific": ["drop", "own", "merge"]},
        ),
        Preset(
            "Groups by function or at random", "NeuronMerge, Table 4", {"parameters.grouping": ["functional", "random"]}
        ),
    ),
}


def presets_of(method: str) -> tuple[Preset, ...]:
    """Return the searches that papers show with a method."""
    return _PRESETS.get(method, ())
