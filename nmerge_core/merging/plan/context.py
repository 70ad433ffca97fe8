"""What a method may ask for before it merges: statistics, linearity coefficients, neuron groups; and what it found."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from nmerge_core.checkpoints.heads import is_head
from nmerge_core.checkpoints.reference import labels
from nmerge_core.corpus import check_categories
from nmerge_core.errors import InputError
from nmerge_core.kept_files import read_parquet
from nmerge_core.merging.compute.entrywise import total_weight
from nmerge_core.merging.compute.order_statistics import (
    Magnitudes,
    Order,
    Ranking,
    by_magnitude,
    count_entries,
    magnitudes,
    order_statistics,
)
from nmerge_core.merging.compute.stream import Stream, all_rows
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.registry import named
from nmerge_core.merging.recipe.values import Values
from nmerge_core.number_format import choose_format
from nmerge_core.progress import Progress, silent

if TYPE_CHECKING:
    import pandas as pd

    from nmerge_core.calibration import Statistics
    from nmerge_core.nonlinearity import Coefficients

Groups = Mapping[int, Mapping[str, np.ndarray]]  # layer → category → neuron indices


@dataclass(frozen=True)
class Context:
    """An opened merge: its recipe, the stream over its models, and the tensors it merges.

    `place` is the key of the part that it is for, with the names of the parameters that stand there; "" for the whole.
    """

    recipe: Recipe
    stream: Stream
    names: tuple[str, ...]
    progress: Progress
    groups: Groups | None = None
    place: str = ""
    own: frozenset[str] = frozenset()

    @property
    def labels(self) -> list[str]:
        """A distinct short name per model, in the recipe's order."""
        return labels(self.recipe.references)

    @property
    def run_dtype(self) -> str:
        """The format that the base runs in, where it is run on texts."""
        return choose_format(self.stream.donor, self.recipe.run_dtype, self.stream.device).name

    def magnitudes(self, densities: Sequence[float], *, extra: int = 0) -> list[Magnitudes]:
        """Return whole-model statistics of |τ| per model (exact; a tied tensor counts once)."""
        return magnitudes(self.stream, all_rows(self.stream, self.names), densities, self.progress, extra=extra)

    @property
    def entries(self) -> int:
        """The number d of entries of one model."""
        return count_entries(self.stream, all_rows(self.stream, self.names))

    @property
    def by_magnitude(self) -> Ranking:
        """The ranking of entries by |τ|."""
        return by_magnitude(self.stream, all_rows(self.stream, self.names))

    def order_statistics(self, ranking: Ranking, ranks: Sequence[Sequence[int]], stage: str) -> list[Order]:
        """Return, per model, the values of its ranks (1 the largest) among the values of the whole model."""
        return order_statistics(self.stream, all_rows(self.stream, self.names), ranking, ranks, stage, self.progress)

    def tensor_thresholds(self, values: Values) -> dict[str, list[float]]:
        """Return per tensor and model the threshold that keeps `density` of that tensor alone."""
        thresholds = {}
        for done, name in enumerate(self.names):
            self.progress("Statistics per tensor", done, len(self.names), "tensors")
            densities = self.values_of(name, values).each["density"]
            found = magnitudes(self.stream, self.stream.rows(name), densities, silent)
            thresholds[name] = [each.threshold for each in found]
        return thresholds

    def values_of(self, name: str, values: Values) -> Values:
        """Return the parameters of one tensor."""
        position = self.stream.donor.architecture.position(name)
        return values.at(name, position).with_defaults(named(values.method).defaults)

    def with_groups(self, groups: Groups) -> "Context":
        """Return the context with neuron groups whose coefficients are solved too."""
        return replace(self, groups=groups)

    def inside(self, place: str, own: Iterable[str]) -> "Context":
        """Return the context of a part of the recipe, at the key `place`, with the parameters that stand there."""
        return replace(self, place=place, own=frozenset(own))

    def task_categories(self, values: Values) -> list[str]:
        """Return the corpus category of each model: its `category`, else its own name."""
        given = values.each["category"]
        return [category or label for category, label in zip(given, self.labels, strict=True)]

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
        """Solve SubModule Linearity's α per layer for attention, MLP and neuron groups (`linearity.solve`).

        Raises:
            InputError: no calibration corpus is named.
        """
        # Imported here: it brings transformers along, which a look at a method's parameters does not need.
        from nmerge_core.nonlinearity import solve

        return solve(
            self.recipe.base_model or "",
            self.recipe.references,
            self.calibration(values),
            self.task_categories(values),
            groups=self.groups,
            samples=values.shared["samples"],
            seed=self.recipe.seed,
            device=self.stream.device,
            progress=self.progress,
        )

    def check_neurons(self, values: Values, tasks: Sequence[str]) -> None:
        """Check that a classification of the base, or a corpus to classify it with, has the tasks' categories.

        Raises:
            InputError: neither is named, a category is missing, or stored exemplars cannot vote again as is asked.
        """
        neurons, corpus = values.shared["neurons"], values.shared["corpus"]
        top_k, margin = values.shared["top_k"], values.shared["margin"]
        if neurons:
            folder = self.recipe.path(neurons)
            known = sorted(self._checked(_categories(folder, None, None), neurons)["category"].unique())
            if strange := [task for task in tasks if task not in known]:
                expected = f"categories of neurons ({', '.join(known)})"
                raise self.wrong("models[].parameters.category", expected, strange)
            if top_k is not None or margin is not None:
                from nmerge_core.activations.store import open_classification
                from nmerge_core.classification import check_vote

                check_vote(open_classification(folder), k=top_k, margin=margin)
        elif corpus:
            check_categories(self.recipe.corpus(corpus), tasks)
        else:
            expected = "the folder of a classification of the base (`classify BASE … --out DIR`), or a 'corpus'"
            raise self.wrong("parameters.neurons", expected, "neither")

    def neuron_categories(self, values: Values) -> "pd.DataFrame":
        """Return the base's neuron categories (layer, neuron, category), read or classified on the way.

        Raises:
            InputError: the folder is of another model.
        """
        neurons, corpus = values.shared["neurons"], values.shared["corpus"]
        top_k, margin = values.shared["top_k"], values.shared["margin"]
        if neurons:
            return self._checked(_categories(self.recipe.path(neurons), top_k, margin), neurons)
        from nmerge_core.classification import classify

        with TemporaryDirectory(prefix="nmerge-neurons-") as folder:
            out = Path(folder) / "neurons"
            classify(
                self.recipe.base_model or "",
                self.recipe.corpus(corpus),
                out,
                top_k=top_k or 10,
                margin=1 if margin is None else margin,
                device=self.stream.device,
                run_dtype=self.recipe.run_dtype,
                progress=self.progress,
            )
            return self._checked(_categories(out, None, None), corpus)

    def check_statistics(self, values: Values, kind: str) -> None:
        """Check that statistics are of their models, or a corpus to collect them on is named; raises InputError."""
        from nmerge_core.calibration import open_statistics

        for model, folder in zip(self.stream.models, values.each["statistics"], strict=True):
            if folder:
                open_statistics(self.recipe.path(folder), kind, model)
        if not values.shared["corpus"] and None in values.each["statistics"]:
            expected = f"a folder of `statistics MODEL --kind {kind} …` for each model, or a 'corpus' for all"
            raise self.wrong("models[].parameters.statistics", expected, "neither")
        lacking = zip(values.each["statistics"], self.task_categories(values), strict=True)
        if tasks := [task for folder, task in lacking if not folder]:
            check_categories(self.recipe.corpus(values.shared["corpus"]), tasks)

    def statistics(self, values: Values, kind: str) -> "list[Statistics]":
        """Return each model's statistics: read from its folder, else from the cache, where they may be collected first.

        Raises:
            InputError: a folder is of another model or kind.
        """
        from nmerge_core.calibration import cached, open_statistics

        corpus, folders = values.shared["corpus"], values.each["statistics"]
        models = zip(self.stream.models, folders, self.task_categories(values), strict=True)
        found = [
            open_statistics(self.recipe.path(folder), kind, model)
            if folder
            else cached(
                model,
                self.recipe.corpus(corpus),
                kind,
                category,
                samples=values.shared["samples"],
                seed=self.recipe.seed,
                device=self.stream.device,
                progress=self.progress,
            )
            for model, folder, category in models
        ]
        for each in found:
            covered = each.grams if kind == "gram" else each.tensors.tensors
            if not any(name in covered for name in self.names):
                raise InputError(
                    f"{each.folder}: expected statistics of tensors named as in {self.stream.donor.reference}, found "
                    f"{next(iter(covered), 'none')} …; save the model as that one is saved, and collect them again"
                )
        return found

    def grams(self, statistics: "Sequence[Statistics]") -> dict[str, str]:
        """Return which Gram matrix belongs to each weight, in all models; a head that some of them tie has none.

        Raises:
            InputError: they are of other linear layers than the first model's.
        """
        first, unlike = statistics[0], set[str]()
        for other in statistics[1:]:
            own = {name for name, _ in other.grams.items() ^ first.grams.items()}
            if not all(map(is_head, own)):
                raise InputError(
                    f"{other.folder}: expected Gram matrices of the same linear layers as in {first.folder}, found "
                    "others; collect both with this version"
                )
            unlike |= own
        return {name: gram for name, gram in first.grams.items() if name not in unlike}

    def prepared_by(
        self, values: Values, statistics: "Sequence[Statistics]", data: Any, warnings: Sequence[str] = ()
    ) -> Prepared:
        """Return what a method found that merges by `statistics`.

        The resolved recipe names the folders that were given, and for the others the texts to collect them on again,
        as the cache, where those lie, may be cleared.
        """
        folders = [folder and str(self.recipe.path(folder).resolve()) for folder in values.each["statistics"]]
        categories = zip(folders, values.each["category"], self.task_categories(values), strict=True)
        corpus = str(Path(self.recipe.corpus(values.shared["corpus"])).resolve()) if None in folders else None
        keys = ("label", "corpus", "categories", "texts", "tokens")
        rows = [{**{key: s.meta[key] for key in keys}, "fingerprint": s.fingerprint} for s in statistics]
        return Prepared(
            data,
            solved={"corpus": corpus},
            solved_each={
                "statistics": folders,
                "category": [given if folder else found for folder, given, found in categories],
            },
            report={"statistics": rows, "warnings": list(warnings)},
        )

    def wrong(self, key: str, expected: str, found: object) -> InputError:
        """Return the error for a value of the recipe that does not fit the models, at the key where it stands."""
        name = key.rpartition(".")[2]
        for_all = {parameter.name for parameter in self.recipe.method.parameters}
        if self.place and (name in self.own or name not in for_all):
            key = f"{self.place}.{name}"
        return InputError(f"recipe, key '{key}' ({self.recipe.merge_method}): expected {expected}; found {found}")

    def _checked(self, categories: "pd.DataFrame", source: str) -> "pd.DataFrame":
        found = categories.groupby("layer")["neuron"].count().to_dict()
        expected = {mlp.layer: mlp.d_ffn for mlp in self.stream.donor.architecture.layers}
        if found != expected:
            raise InputError(
                f"{source}: expected categories of the base's {sum(expected.values()):,} neurons in {len(expected)} "
                f"layers, found {sum(found.values()):,} in {len(found)}; classify this base model and name that folder"
            )
        return categories


def _categories(folder: Path, top_k: int | None, margin: int | None) -> "pd.DataFrame":
    file, columns = folder / "neurons.parquet", ["layer", "neuron", "category"]
    if not file.exists():
        raise InputError(f"{file}: missing; expected the folder of a classification (`classify MODEL … --out DIR`)")
    if top_k is None and margin is None:
        return read_parquet(file, columns)[columns]
    from nmerge_core.activations.store import open_classification
    from nmerge_core.classification import neuron_categories

    return neuron_categories(open_classification(folder), k=top_k, margin=margin)
