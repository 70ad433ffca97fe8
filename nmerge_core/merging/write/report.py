"""What a merge leaves beside the weights: its report, its resolved recipe, its card, and the neuron groups it used."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from nmerge_core.checkpoints import fingerprint, label, labels
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.merging.recipe.prepared import NEURONS_FOLDER, Prepared
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.write.card import model_card


@dataclass(frozen=True)
class Report:
    """What a merge did: written as nmerge_report.json. Times in seconds, memory and sizes in bytes.

    `facts` is what was found out on the way; `results` say which of it is worth seeing, and in what form
    (`prepared.Result`).
    """

    version: str
    method: str
    base: Mapping[str, str] | None
    models: list[Mapping[str, str]]
    dtype: str
    tensors: int
    bytes_written: int
    seconds: Mapping[str, float]
    peak_memory: int
    results: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]


def source(checkpoint: Checkpoint) -> dict[str, str]:
    """Return what a report says of a model it was made of."""
    return {"model": checkpoint.reference, "label": label(checkpoint.reference), "fingerprint": fingerprint(checkpoint)}


def _json(content: Any) -> str:
    """Write JSON as every reader takes it: what is no finite number (the norm of nothing, an open end) is null."""

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: finite(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [finite(each) for each in value]
        return None if isinstance(value, float) and not isfinite(value) else value

    return json.dumps(finite(content), indent=1, allow_nan=False)


def describe(
    staging: Path, resolved: Recipe, prepared: Prepared, report: Report, architectures: Sequence[str], conversation: str
) -> None:
    """Write everything beside the weights into the folder of a finished merge."""
    (staging / "nmerge_recipe.yaml").write_text(resolved.yaml, encoding="utf-8")
    (staging / "nmerge_report.json").write_text(_json(asdict(report)) + "\n", encoding="utf-8")
    names = labels(resolved.references)
    card = model_card(resolved, names, report.version, architectures, conversation)
    (staging / "README.md").write_text(card, encoding="utf-8")
    if prepared.categories is not None:
        (staging / NEURONS_FOLDER).mkdir(exist_ok=True)
        prepared.categories.to_parquet(staging / NEURONS_FOLDER / "neurons.parquet", index=False)
