"""A sweep whose best point is known: what is scored is how far a merge's weights are from a target."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.loading import LanguageModel
from nmerge_core.search.plan import Sweep
from nmerge_core.search.reading import load_sweep
from nmerge_core.search.scoring import Measured

WEIGHTS = ("models[0].parameters.weight", "models[1].parameters.weight")
TARGET = (0.8, 0.3)
TENSOR = "model.layers.1.mlp.down_proj.weight"


def plan_of(family: SimpleNamespace, folder: Path, search: dict, tokenizer: Any = None, **more: object) -> Sweep:
    recipe: dict[str, Any] = {
        "merge_method": "task_arithmetic",
        "base_model": family.base,
        "models": [{"model": family.math}, {"model": family.code}],
    }
    if tokenizer:
        recipe["tokenizer"] = tokenizer
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({"recipe": recipe, "search": search, "tasks": ["t"], **more}, sort_keys=False))
    return load_sweep(file)


class Target:
    """How far merges of a family's math and code are from the target: 0 there, and smaller elsewhere."""

    def __init__(self, family: SimpleNamespace) -> None:
        base, *models = (
            open_checkpoint(name).read(TENSOR).double() for name in (family.base, family.math, family.code)
        )
        self._base, self._deltas = base, torch.stack([model - base for model in models]).flatten(1)  # (2, entries)

    def __call__(self, merge: LanguageModel, *_: object) -> Measured:
        own = self.weights_of(merge)
        distance = round(sum((one - other) ** 2 for one, other in zip(own, TARGET, strict=True)), 9)  # to the same bits
        return Measured({"t/distance": distance}, (-distance,))

    def weights_of(self, merge: LanguageModel | str) -> tuple[float, float]:
        """Solve θ − θ0 = w_0 τ_0 + w_1 τ_1 for the weights, from a merge's own numbers, in memory or on the disk."""
        theirs = open_checkpoint(merge).read(TENSOR) if isinstance(merge, str) else merge.model.state_dict()[TENSOR]
        found = torch.linalg.lstsq(self._deltas.T, (theirs.double() - self._base).flatten()[:, None]).solution
        return float(found[0]), float(found[1])
