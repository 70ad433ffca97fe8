"""A merge in memory whose weights follow its recipe: what changes is merged anew, and nothing is written."""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from nmerge_core.answers import forget
from nmerge_core.errors import InputError
from nmerge_core.loading import LanguageModel
from nmerge_core.machine import CPU
from nmerge_core.merging.compute.block import place_of
from nmerge_core.merging.compute.census import Census, Magnitudes
from nmerge_core.merging.compute.inner_products import Products
from nmerge_core.merging.compute.stream import Rows
from nmerge_core.merging.loop import merge_block, merge_rows, tensor_values
from nmerge_core.merging.plan.candidate import as_matrix, load_candidate, put_rows
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.kept import Kept, StandIn, nothing_kept
from nmerge_core.merging.plan.opened import Opened, open_recipe, reopen
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.recipe import DTYPES, Recipe
from nmerge_core.number_format import AUTO
from nmerge_core.parallel import in_order
from nmerge_core.progress import Progress, silent
from nmerge_core.resident.change import ModelSums
from nmerge_core.resident.speaking import speaking
from nmerge_core.resident.stream import Place, ResidentStream, hold

Result = TypeVar("Result")


@dataclass(frozen=True)
class Family:
    """The models of a recipe, held in memory, for any number of merges of them.

    `known` keeps whole-model statistics of |τ| by what was asked for (a census, and thresholds), `measured` sums of
    what the models changed by the base and the block that they are of.
    """

    opened: Opened
    names: tuple[str, ...]
    known: dict[Any, Any] = field(default_factory=dict)
    measured: dict[tuple[str, Rows], ModelSums] = field(default_factory=dict)

    def reopen(self, recipe: Recipe) -> Opened:
        """Return another recipe of these models, opened; raises InputError where it is of others."""
        opened = reopen(self.opened, recipe)
        if not isinstance(opened.stream, ResidentStream):
            raise InputError(
                "a live merge: expected a recipe of the models and tokenizer that it was opened with; open another for "
                "these"
            )
        return opened

    @property
    def bytes(self) -> int:
        """What its weights take in memory."""
        assert isinstance(self.opened.stream, ResidentStream)
        return self.opened.stream.bytes


def hold_family(
    recipe: Recipe, device: str = "auto", progress: Progress = silent, *, place: Place = "device"
) -> Family:
    """Open a recipe's models and hold their weights at a place (`stream.hold`).

    Raises:
        InputError: they do not fit together, or a file is no longer whole.
    """
    opened = open_recipe(recipe, device)
    names = opened.merged_names
    return Family(replace(opened, stream=hold(opened.stream, names, place, progress)), names)


@dataclass(frozen=True)
class Followed:
    """What a live merge did to follow its recipe: tensors merged anew, of how many, and seconds.

    While `stand_ins` take the place of what it should be merged by, it is provisional.
    """

    tensors: int
    of: int
    seconds: float
    prepared: Prepared
    stand_ins: tuple[StandIn, ...] = ()


class LiveMerge:
    """A merged model in memory whose weights are, bit for bit, those that `merge` writes for its recipe."""

    def __init__(self, family: Family, recipe: Recipe, run_dtype: str = AUTO) -> None:
        """Load the donor's model, whose weights the merge replaces when it first follows a recipe.

        Messages are of the merge, not of the model that it was loaded from.

        Raises:
            InputError: the recipe is of other models, or its merge cannot be run (`load_candidate`).
        """
        self.family, self.recipe = family, recipe
        opened = family.reopen(recipe)
        candidate = load_candidate(opened.stream, family.names, recipe.dtype, run_dtype)
        merge = replace(speaking(candidate.language_model, opened), label="the merge")
        self._candidate = replace(candidate, language_model=merge)
        self._spoken = _way_of_speaking(recipe)
        self._made: dict[str, Any] = {}  # what each tensor was merged by

    @property
    def language_model(self) -> LanguageModel:
        """The merged model."""
        return self._candidate.language_model

    def weights(self, name: str) -> Tensor:
        """Return a merged tensor in the dtype in which it would be written."""
        return self._candidate.weights[name].to(self._candidate.rounded[name])

    def rows(self, rows: Rows) -> Tensor:
        """Return merged rows of a tensor seen as its `Matrix`, (rows, columns), in the dtype it would be written in."""
        matrix = self.family.opened.stream.donor.architecture.matrix(rows.name)
        found = as_matrix(self._candidate.weights[rows.name], matrix)[rows.start : rows.stop]
        return found.to(self._candidate.rounded[rows.name])

    def _speak_as(self, recipe: Recipe) -> None:
        """Speak by the chat template of a recipe of the same models and tokenizer, whose weights stay in memory."""
        own, models = self.family.opened.recipe, attrgetter("base_model", "references", "layers", "tokenizer")
        if models(recipe) != models(own) or self._spoken == _way_of_speaking(recipe):
            return
        held = self.family.opened.stream
        opened = replace(open_recipe(recipe, held.device), stream=held)
        self.family = replace(self.family, opened=opened)
        self._candidate = replace(self._candidate, language_model=speaking(self.language_model, opened))
        self._spoken = _way_of_speaking(recipe)

    def follow(self, recipe: Recipe, progress: Progress = silent, kept: Kept = nothing_kept) -> Followed:
        """Make the weights those of a recipe of the same models, by merging the tensors for which it says otherwise.

        What it has to measure first it takes from where `kept` finds it.

        Raises:
            InputError: the recipe is of other models or another dtype, its parameters do not fit, or an entry of the
                merge is NaN or infinite; the next recipe then merges anew whatever this one touched.
        """
        started = time.monotonic()
        if recipe.dtype != self.recipe.dtype:
            raise InputError(f"a live merge: expected the dtype {self.recipe.dtype}, found {recipe.dtype}")
        self._speak_as(recipe)
        opened = self.family.reopen(recipe)
        method, stream, names = recipe.method, opened.stream, self.family.names
        prepared = method.facts(
            _Context(recipe, stream, names, progress, kept=kept, known=self.family.known), recipe.values()
        )
        values = tensor_values(recipe, stream.donor.architecture, names)

        def made_by(name: str) -> Any:
            place = place_of(stream.donor.architecture, name)
            return stream.differences, method.decided_by(place, values[name], prepared)

        wanted = {name: made_by(name) for name in names}
        changed = [name for name in names if name not in self._made or self._made[name] != wanted[name]]
        targets = {tensor.name: tensor for tensor in opened.tensors}
        if recipe.dtype:
            targets = {name: replace(tensor, dtype=DTYPES[recipe.dtype]) for name, tensor in targets.items()}

        def put(rows: Rows, tensor: Tensor) -> None:
            matrix = stream.donor.architecture.matrix(rows.name)
            put_rows(self._candidate.weights[rows.name], matrix, rows.start, tensor.reshape(-1, matrix.columns))

        def work(rows: Rows) -> None:
            merged = merge_rows(stream, method, values[rows.name], prepared, rows, targets[rows.name])
            if isinstance(merged, np.ndarray):
                merged = torch.from_numpy(merged).view(self._candidate.rounded[rows.name])
            put(rows, merged)

        def begin(rows: Rows) -> Tensor:
            merged = merge_block(stream, method, values[rows.name], prepared, rows, targets[rows.name])
            put(rows, merged)
            return merged.isfinite().all()

        if changed:
            forget(self.language_model.model)
        for name in changed:
            self._made.pop(name, None)
        rows = method.blocks(stream, changed, recipe.values())
        if stream.device == CPU:
            for done, (each, _) in enumerate(zip(rows, in_order(work, rows), strict=True)):
                progress("Merging", done, len(rows), "blocks")
                if each.stop == stream.count(each.name):
                    self._made[each.name] = wanted[each.name]
        else:
            finite = []  # asked when all is begun, so that the device waits for nothing between blocks
            for done, each in enumerate(rows):
                progress("Merging", done, len(rows), "blocks")
                finite.append(begin(each))
            for each, fits in zip(rows, torch.stack(finite).tolist() if finite else [], strict=True):
                if not fits:
                    work(each)  # which says where it does not
            self._made |= {name: wanted[name] for name in changed}
        self.recipe = recipe
        return Followed(len(changed), len(names), time.monotonic() - started, prepared)


def _way_of_speaking(recipe: Recipe) -> tuple[str, str | None]:
    """Return what a recipe says of its chat template, and the text of its file, which may be changed."""
    choice = recipe.chat_template
    return str(choice), choice.text(recipe.path) if choice else None


@dataclass(frozen=True)
class _Context(Context):
    """A context that remembers statistics of the whole family."""

    known: dict[Any, Any] = field(default_factory=dict)

    def thresholds(self, densities: Sequence[float]) -> list[float]:
        """Return thresholds of |τ| per model, by the census of the family."""
        return [each.threshold for each in self.magnitudes(densities)]

    def magnitudes(self, densities: Sequence[float], *, extra: int = 0) -> list[Magnitudes]:
        """Return thresholds of |τ| per model with the sums above them, found once for each question."""
        return self._once((tuple(densities), extra), lambda: Context.magnitudes(self, densities, extra=extra))

    def census(self) -> Census:
        """Count the |τ| of every model, once."""
        return self._once("census", lambda: Context.census(self))

    def inner_products(self) -> dict[str, Products]:
        """Return inner products per tensor, found once."""
        return self._once("inner products", lambda: Context.inner_products(self))

    def _once(self, question: Hashable, find: Callable[[], Result]) -> Result:
        asked = (self.stream.differences, question)
        if asked not in self.known:
            self.known[asked] = find()
        found: Result = self.known[asked]
        return found
