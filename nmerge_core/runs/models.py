"""The models that short questions have loaded, and the family that a live merge follows, kept while there is room."""

import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nmerge_core.checkpoints.opening import open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.inputs import model_fingerprint
from nmerge_core.machine import CPU, choose_device, release_memory, total_memory
from nmerge_core.merging.plan.kept import Measurement, NotMeasured
from nmerge_core.number_format import ITEM_BYTES, choose_format
from nmerge_core.runs.answering import heed, heed_models
from nmerge_core.runs.kept import FinishedOrAlike, finished_results
from nmerge_core.runs.memory import free_memory, whole_memory
from nmerge_core.runs.workers import KEPT_SECONDS, count

if TYPE_CHECKING:
    from nmerge_core.loading import LanguageModel
    from nmerge_core.merging.recipe.recipe import Recipe
    from nmerge_core.resident import Followed, LiveMerge, Place

_COUNT = 8
_MEMORY_SHARE = 0.25  # of the memory that models run in: the rest is for the run that is going
_LIVE_SHARE = 0.5  # of the memory of the machine, or of what a GPU has free, that a live merge's family may take


class LoadedModels:
    """At most eight models and a quarter of the memory; the one not used for longest goes first, in time all do."""

    def __init__(self) -> None:
        """Start with none."""
        self._models: OrderedDict[str, tuple[int, LanguageModel]] = OrderedDict()  # fingerprint → (bytes, model)
        self._asked = 0.0  # when, on the machine's monotonic clock

    def get(self, reference: str) -> "LanguageModel":
        """Return the model, loading it if none with its weights, configuration and tokenizer is loaded."""
        from nmerge_core.kinds import SCORED
        from nmerge_core.loading import load_model

        checkpoint = open_checkpoint(reference)
        key = model_fingerprint(checkpoint)
        if key not in self._models:
            size = checkpoint.parameters * ITEM_BYTES[choose_format(checkpoint).name]
            self._make_room(size)
            self._models[key] = (size, load_model(reference, kinds=SCORED))
        self._models.move_to_end(key)
        self._asked = time.monotonic()
        return self._models[key][1]

    def spare(self) -> None:
        """Free the memory where nobody has asked for some minutes."""
        if time.monotonic() - self._asked > KEPT_SECONDS:
            self.release()

    def release(self) -> None:
        """Free the memory; a model is loaded again when it is asked."""
        if self._models:
            self._models.clear()
            release_memory()

    def _make_room(self, wanted: int) -> None:
        room = _MEMORY_SHARE * whole_memory()
        while self._models and (
            len(self._models) >= _COUNT or sum(size for size, _ in self._models.values()) + wanted > room
        ):
            self._models.popitem(last=False)


class LiveMerges:
    """One family in memory and one merge of it, which follows the recipe of whoever asks.

    A question brings its whole recipe, so people who tune different merges of a family never mix; each waits for the
    other's to be merged back.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._live: tuple[tuple[Hashable, ...], LiveMerge] | None = None
        self._asked = 0.0  # when, on the machine's monotonic clock
        self._gone: dict[Hashable, str] = {}  # why a family was released
        self._left: int | None = None  # bytes beside the run that is going
        self.lost = ""  # why families that an earlier process held are not held here
        self._read: dict[Hashable, str] = {}  # why a family was read again, until somebody is told

    def follow(self, content: Mapping[str, Any], *, provisional: bool = False) -> "tuple[LiveMerge, Followed]":
        """Return the merge of a recipe and what was merged anew for it.

        A `provisional` one may go by what another run has measured; no other is the recipe's own, to be remembered by.

        Raises:
            InputError: the recipe is wrong or mergekit's, or its family has no room in memory.
            NotMeasured: runs have to measure first what it is merged by, or to search it.
        """
        from nmerge_core.merging.engine import load
        from nmerge_core.merging.plan.opened import open_recipe
        from nmerge_core.merging.recipe.recipe import Recipe
        from nmerge_core.resident import LiveMerge, hold_family

        recipe = load(content)
        if not isinstance(recipe, Recipe):
            raise InputError("mergekit's methods, and recipes in stages, are merged to disk: start the merge")
        if recipe.searches:
            recipe = _searched(recipe)
        references = [*([recipe.base_model] if recipe.base_model else []), *recipe.references]
        checkpoints = [open_checkpoint(reference) for reference in references]
        asked = (recipe.base_model is None, recipe.layers, recipe.dtype, str(recipe.tokenizer))
        key = (tuple(references), *map(model_fingerprint, checkpoints), *asked)
        if self._live is None or self._live[0] != key:
            others = self._live is not None and self._live[0][0] != key[0]
            self.release("other models were merged meanwhile" if others else "")
            held = open_recipe(recipe).stream.checkpoints if recipe.slices else checkpoints
            place = _choose_place(sum(each.bytes for each in held), len(held), self._left)
            family = hold_family(recipe, progress=heed_models, place=place)
            heed_models("Loading the model that runs", 0, 0)
            self._live = (key, LiveMerge(family, recipe))
            self._read[key], self.lost = self._gone.pop(key, self.lost), ""
        live, kept = self._live[1], FinishedOrAlike(alike=provisional)
        try:
            followed = live.follow(recipe, heed, kept)
            return live, replace(followed, stand_ins=tuple(kept.stand_ins))
        finally:
            self._asked = time.monotonic()

    def reread(self) -> str:
        """Return in a sentence, once, why the models of the merge that was followed last had to be read again."""
        why = self._read.pop(self._live[0], "") if self._live is not None else ""
        return f"The models were read again: {why}." if why else ""

    @contextmanager
    def beside(self, needed: int) -> Iterator[None]:
        """Hold no more, while a run is going that takes so many bytes, than it leaves of the memory.

        What does not fit beside it is released when the run begins, and read again for the first question after it.
        """
        if needed > free_memory():
            self.release("a run needed the memory")
        self._left = free_memory() - needed
        try:
            yield
        finally:
            self._left = None

    def spare(self) -> None:
        """Free the memory where nobody has asked for some minutes."""
        if self._live is not None and time.monotonic() - self._asked > KEPT_SECONDS:
            self.release(f"nobody had asked for {KEPT_SECONDS / 60:.0f} minutes")

    def release(self, why: str = "") -> None:
        """Free the memory, and remember why for whoever asks for the same family next."""
        if self._live is not None:
            self._gone[self._live[0]] = why
            self._live = None
            release_memory()


def _searched(recipe: "Recipe") -> "Recipe":
    """Return a recipe with what its finished merge has searched; raises NotMeasured where there is none."""
    from nmerge_core.merging.recipe.reading import load_recipe

    searching = Measurement("merge", {"recipe": recipe.content})
    (results,) = finished_results([searching])
    if results is None:
        raise NotMeasured([searching])
    found = load_recipe(results / "merged/nmerge_recipe.yaml")
    entries = zip(recipe.models, found.models, strict=True)
    models = tuple(replace(own, parameters=resolved.parameters) for own, resolved in entries)
    return replace(recipe, parameters=found.parameters, models=models, folder=found.folder)


def _choose_place(weights: int, models: int, left: int | None) -> "Place":
    """Choose where the weights of a family are held, so that one merge of them fits beside them.

    Where the device has no room for all, the host's memory holds what is merged; where that has none either, it is read
    from the files. Beside a run that is going, all of it goes into what the run has left, or nothing.

    Raises:
        InputError: not even the merge fits; the sizes are said.
    """
    merged = weights / models
    needed = weights + merged
    if left is not None and needed > left:
        raise InputError(
            f"a run is going, and these {models} models and their merge take {needed / 1e9:.1f} GB, of which "
            f"it leaves {max(left, 0) / 1e9:.1f} GB free; answers follow the controls again when it has ended"
        )
    memory = _LIVE_SHARE * total_memory() / count()
    room, where = memory, "memory"
    if on_device := choose_device() != CPU:
        import torch

        torch.cuda.empty_cache()  # what was released before counts as free
        room, where = _LIVE_SHARE * torch.cuda.mem_get_info()[0], "GPU memory"
    if needed <= room:
        return "device"
    if merged <= room:
        return "memory" if on_device and weights <= memory else "files"
    raise InputError(
        f"a merge of these {models} models takes {merged / 1e9:.1f} GB, and {room / 1e9:.1f} GB of {where} are there "
        "for answers that follow the controls; start the merge, and ask it on Evaluate"
    )
