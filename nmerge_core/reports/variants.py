"""A merge of a report, as a recipe of a family's own models and of the data that it goes by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nmerge_core.family import Family, Member

TASK_ARITHMETIC, DARE, SUBLIN = "task arithmetic", "DARE", "SubModule Linearity"
NEURONMERGE_1, NEURONMERGE_2 = "NeuronMerge₁", "NeuronMerge₂"
NEUROMERGING, TIES, PCB, AVERAGING = "NeuroMerging", "TIES-Merging", "PCB-Merging", "averaging"
FISHER, REGMEAN, ADAMERGING, LORAHUB = "Fisher merging", "RegMean", "AdaMerging", "LoraHub"
PCB_ES = "PCB-Merging + ES"
# Which methods go by texts of each fine-tune's category: by equations, by statistics, and by a search.
SOLVED, _MEASURED, _SEARCHED = ("sublin", "neuronmerge"), ("fisher", "regmean"), ("adamerging", "lorahub")


@dataclass(frozen=True)
class Data:
    """What merges of a report may go by besides weights: texts, neurons, and tasks' first `problems`."""

    corpus: str | None
    neurons: str | None
    samples: int
    tasks: tuple[str, ...]
    problems: int
    run_code: bool


@dataclass(frozen=True)
class Variant:
    """A merge: what it is called, its method, of which fine-tunes by label, and the parameters that differ."""

    title: str
    method: str
    models: tuple[str, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def key(self) -> str:
        """What tells it from all others."""
        told = ", ".join(f"{name} {value}" for name, value in sorted(self.parameters.items()))
        return f"{self.method}({told}; seed {self.seed}) of {' + '.join(self.models)}"

    @property
    def by_data(self) -> bool:
        """Whether it goes by data as methods of NeuroMerging's Table 1 do, which not every family has."""
        return self.method in (*_MEASURED, *_SEARCHED, "pcb_es")

    def recipe(self, family: Family, data: Data) -> dict[str, Any]:
        """Return its recipe for a family, whose texts, neurons and tasks it goes by where its method does."""
        chosen = [model for model in family.models if model.label in self.models]
        return {
            "merge_method": self.method,
            "base_model": family.base,
            "models": [_model(model, self.method) for model in chosen],
            "parameters": _goes_by(self.method, data) | dict(self.parameters),
            "seed": self.seed,
        }


def _goes_by(method: str, data: Data) -> dict[str, Any]:
    """Return the parameters that name what a method goes by."""
    if method == "pcb_es":
        return {"tasks": list(data.tasks), "limit": data.problems, "run_code": data.run_code}
    if method in _MEASURED:
        return {"corpus": data.corpus, "samples": data.samples}
    given: dict[str, Any] = {"calibration": data.corpus} if method in (*SOLVED, *_SEARCHED) else {}
    given |= {"samples": data.samples} if method in SOLVED else {}
    return given | ({"neurons": data.neurons} if method == "neuronmerge" else {})


def _model(model: Member, method: str) -> dict[str, Any]:
    named: dict[str, Any] = {"model": model.reference}
    return named | ({"parameters": {"category": model.category}} if method in (*SOLVED, *_MEASURED, *_SEARCHED) else {})
