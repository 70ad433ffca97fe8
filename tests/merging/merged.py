"""What tests of methods share: the tiny family merged by one, its task vectors, and what a method cannot do without."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from tests.merging import checkpoints

Weights = dict[str, torch.Tensor]

ALPHA = {
    str(layer): {part: [0.25 + 0.5 * layer, 0.5, -0.25] for part in ("attention", "mlp", "general", "math", "code")}
    for layer in range(checkpoints.LAYERS)
}


def run(family, out: Path, method: str, models: list[str] | None = None, **parameters: Any) -> Weights:
    recipe = {
        "merge_method": method,
        "base_model": family.base,
        "models": checkpoints.entries(method, models or family.models),
        "parameters": parameters,
    }
    merge(load_recipe(recipe), out)
    return load_file(out / "model.safetensors")


def deltas(family) -> Weights:
    """The task vectors, (T, …) per tensor."""
    return {
        name: torch.stack([tune[name] - base for tune in family.tunes.values()])
        for name, base in family.weights.items()
    }


def thresholds(family, density: float, extra: int = 0) -> list[float]:
    all_ = torch.cat([tau.flatten(1) for tau in deltas(family).values()], dim=1).abs()
    kept = -int(-all_.shape[1] * density // 1) + extra
    return all_.sort(dim=1, descending=True).values[:, kept - 1].tolist()


def assert_same(merged: Weights, family, delta: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    assert merged.keys() == family.weights.keys()
    for name, tau in deltas(family).items():
        torch.testing.assert_close(merged[name], family.weights[name] + delta(name, tau), atol=2e-6, rtol=2e-6)


# Coefficients of the methods that solve or search some.
BY_LAYER = {part: [0.5, -0.25, 1.25] for part in ("0", "1", "embedding", "norm")}

NEEDED = {"sublin": ALPHA, "neuronmerge": ALPHA, "adamerging": BY_LAYER}

NEEDED |= {name: {"model": [0.5, -0.25, 1.25]} for name in ("lorahub", "pcb_es")}


def needed(family, method: str) -> dict[str, Any]:
    given = {"coefficients": NEEDED[method]} if method in NEEDED else {}
    return given | ({"neurons": family.neurons} if method == "neuronmerge" else {})
