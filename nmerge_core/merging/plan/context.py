"""What a method may ask of the models before it merges: order statistics, texts, linearity coefficients."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nmerge_core.checkpoints import label
from nmerge_core.corpus.corpus import check_categories
from nmerge_core.errors import InputError, short
from nmerge_core.machine import choose_device
from nmerge_core.merging.compute.census import Census, Magnitudes, magnitudes, take_census
from nmerge_core.merging.compute.entrywise import total_weight
from nmerge_core.merging.compute.inner_products import Products, inner_products
from nmerge_core.merging.compute.order_statistics import (
    Ranking,
    by_magnitude,
    count_entries,
    order_statistics,
    thresholds,
)
from nmerge_core.merging.compute.stream import Rows, Stream, all_rows
from nmerge_core.merging.plan.kept import Kept, Measurement, nothing_kept
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.registry import named
from nmerge_core.merging.recipe.values import Values
from nmerge_core.number_format import choose_format
from nmerge_core.progress import Progress, silent

if TYPE_CHECKING:
    from nmerge_core.nonlinearity import Coefficients

Groups = Mapping[int, Mapping[str, np.ndarray]]  # layer → category → neuron indices


@dataclass(frozen=True)
class Context:
    """An opened merge: its recipe, the stream over its models, and the tensors it merges.

    `place` is the key of the part that it is for, with the names of the parameters that stand there; "" for the whole.
    `groups` of neurons are made again from `grouping`, parameters of a run. `kept` finds results of runs that measured
    what the merge would else measure itself.
    """

    recipe: Recipe
    stream: Stream
    names: tuple[str, ...]
    progress: Progress
    groups: Groups | None = None
    grouping: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""
    own: frozenset[str] = frozenset()
    kept: Kept = nothing_kept

    @property
    def labels(self) -> list[str]:
        """A distinct short name per model that is merged, in the recipe's order."""
        return self.recipe.labels

    @property
    def run_dtype(self) -> str:
        """The format that the base runs in, where it is run on texts."""
        return choose_format(self.stream.donor, self.recipe.run_dtype, self.stream.device).name

    def thresholds(self, densities: Sequence[float]) -> list[float]:
        """Return per model the least |τ| of the share `density` that is largest in it (exact; ties are kept)."""
        return thresholds(self.stream, all_rows(self.stream, self.names), densities, self.progress)

    def magnitudes(self, densities: Sequence[float], *, extra: int = 0) -> list[Magnitudes]:
        """Return thresholds of |τ| per model with the sums above them, of a census and one more pass."""
        rows = all_rows(self.stream, self.names)
        return magnitudes(self.stream, rows, self.census(), densities, self.progress, extra=extra)

    def census(self) -> Census:
        """Count the |τ| of every model."""
        return take_census(self.stream, all_rows(self.stream, self.names), self.progress)

    @property
    def entries(self) -> int:
        """The number d of entries of one model."""
        return count_entries(self.stream, all_rows(self.stream, self.names))

    @property
    def by_magnitude(self) -> Ranking:
        """The ranking of entries by |τ|."""
        return by_magnitude(self.stream, all_rows(self.stream, self.names))

    def order_statistics(self, ranking: Ranking, ranks: Sequence[Sequence[int]], stage: str) -> list[list[float]]:
        """Return, per model, the values of its ranks (1 the largest) among the values of the whole model."""
        return order_statistics(self.stream, all_rows(self.stream, self.names), ranking, ranks, stage, self.progress)

    def tensor_thresholds(self, values: Values) -> dict[str, list[float]]:
        """Return per tensor and model the threshold that keeps `density` of that tensor alone."""
        found = {}
        for done, name in enumerate(self.names):
            self.progress("Statistics per tensor", done, len(self.names), "tensors")
            densities = self.values_of(name, values).each["density"]
            found[name] = thresholds(self.stream, self.stream.rows(name), densities, silent)
        return found

    def values_of(self, name: str, values: Values) -> Values:
        """Return the parameters of one tensor."""
        architecture = self.stream.donor.architecture
        own = values.at(name, architecture.position(name), architecture.layer_of(name))
        return own.with_defaults(named(values.method).defaults)

    @property
    def device(self) -> str:
        """The device as a run is told it: the same word wherever it is the one that a run would choose."""
        return "auto" if self.stream.device == choose_device() else self.stream.device

    def with_groups(self, groups: Groups, grouping: Mapping[str, Any]) -> "Context":
        """Return the context with neuron groups whose coefficients are solved too."""
        return replace(self, groups=groups, grouping=grouping)

    def inside(self, place: str, own: Iterable[str]) -> "Context":
        """Return the context of a part of the recipe, at the key `place`, with the parameters that stand there."""
        return replace(self, place=place, own=frozenset(own))

    def tensor_statistics(
        self,
        ranks: Callable[[str, int], Sequence[Sequence[int]]],
        ranking: Callable[[Stream, Sequence[Rows]], Ranking],
    ) -> dict[str, list[list[float]]]:
        """Return per tensor the values of some ranks, 1 the largest.

        `ranks(name, entries)` says which of each model, `ranking` what is ranked of a tensor's blocks.
        """
        found = {}
        for done, name in enumerate(self.names):
            self.progress("Statistics per tensor", done, len(self.names), "tensors")
            if rows := self.stream.rows(name):
                asked, own = ranks(name, count_entries(self.stream, rows)), ranking(self.stream, rows)
                found[name] = order_statistics(self.stream, rows, own, asked, "Statistics", silent)
        return found

    def inner_products(self) -> dict[str, Products]:
        """Return per tensor the inner products of the base and of what each model changed, the base first."""
        return inner_products(self.stream, self.names, self.progress)

    def task_categories(self, values: Values) -> list[str]:
        """Return the corpus category of each of the recipe's `merged`: its `category`, else the model's own name."""
        names = [label(each.model) for each in self.recipe.merged] if self.recipe.slices else self.labels
        return [category or name for category, name in zip(values.beside("category"), names, strict=True)]

    def check_total(self, values: Values) -> None:
        """Check that the weights that every tensor is divided by do not sum to 0; raises InputError."""
        for name in self.names:
            total_weight(self.values_of(name, values).each["weight"])

    def check_calibration(self, values: Values, categories: Sequence[str]) -> None:
        """Check that the corpus whose texts measure coefficients is named and has categories; raises InputError."""
        check_categories(self.calibration(values), categories)

    def calibration(self, values: Values) -> str:
        """Return the corpus whose texts measure coefficients; raises InputError where none is named."""
        calibration = values.shared["calibration"]
        if not calibration:
            expected = "the folder of a corpus (one <category>.jsonl per category), which measures the coefficients"
            raise self.wrong("parameters.calibration", expected, "none")
        return self.recipe.corpus(calibration)

    def coefficients(self, values: Values) -> "Coefficients":
        """Return SubModule Linearity's α per layer for attention, MLP and neuron groups: kept ones, or solved here.

        Raises:
            InputError: no calibration corpus is named.
        """
        # Imported here: it brings transformers along, which a look at a method's parameters does not need.
        from nmerge_core.nonlinearity import read_coefficients, solve

        asked: dict[str, Any] = {
            "base": self.recipe.base_model or "",
            "models": list(self.recipe.references),
            "corpus": self.calibration(values),
            "categories": self.task_categories(values),
            "samples": values.shared["samples"],
            "seed": self.recipe.seed,
            "device": self.device,
        }
        groups = sorted({group for own in (self.groups or {}).values() for group in own})
        together = {"together": values.shared["together"]}
        grouped = {**self.grouping, **together, "groups": groups} if groups else {}
        (kept,) = self.kept([Measurement("coefficients", asked | grouped)])
        if kept:
            return read_coefficients(kept)
        return solve(**asked, **together, groups=self.groups, progress=self.progress)

    def wrong(self, key: str, expected: str, found: object) -> InputError:
        """Return the error for a value of the recipe that does not fit the models, at the key where it stands."""
        name = key.rpartition(".")[2]
        for_all = {parameter.name for parameter in self.recipe.method.parameters}
        if self.place and (name in self.own or name not in for_all):
            key = f"{self.place}.{name}"
        said = short(str(found))
        return InputError(f"recipe, key '{key}' ({self.recipe.merge_method}): expected {expected}; found {said}")
