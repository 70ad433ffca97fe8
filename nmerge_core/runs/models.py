"""The models that short questions have loaded, and the family that a live merge follows, kept while there is room."""

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from nmerge_core.checkpoints.opening import open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.inputs import model_fingerprint
from nmerge_core.machine import CPU, choose_device, total_memory
from nmerge_core.number_format import ITEM_BYTES, choose_format

if TYPE_CHECKING:
    from nmerge_core.loading import LanguageModel
    from nmerge_core.merging.recipe.recipe import Recipe
    from nmerge_core.resident import Followed, LiveMerge

_COUNT = 8
_MEMORY_SHARE = 0.25  # of the machine's memory: the rest is for the run that is going
_LIVE_SHARE = 0.5  # of the memory of the machine, or of what a GPU has free, that a live merge's family may take


class LoadedModels:
    """At most eight models and a quarter of the memory; the one not used for longest goes first."""

    def __init__(self) -> None:
        """Start with none."""
        self._models: OrderedDict[str, tuple[int, LanguageModel]] = OrderedDict()  # fingerprint → (bytes, model)

    def get(self, reference: str) -> "LanguageModel":
        """Return the model, loading it if none with its weights, configuration and tokenizer is loaded."""
        from nmerge_core.loading import load_model

        checkpoint = open_checkpoint(reference)
        key = model_fingerprint(checkpoint)
        if key not in self._models:
            size = checkpoint.parameters * ITEM_BYTES[choose_format(checkpoint).name]
            self._make_room(size)
            self._models[key] = (size, load_model(reference))
        self._models.move_to_end(key)
        return self._models[key][1]

    def _make_room(self, wanted: int) -> None:
        room = _MEMORY_SHARE * total_memory()
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
        self._live: tuple[Hashable, LiveMerge] | None = None

    def follow(self, content: Mapping[str, Any]) -> "tuple[LiveMerge, Followed]":
        """Return the merge of a recipe and what was merged anew for it.

        Raises:
            InputError: the recipe is wrong or of a kind that is merged by a run, or its family has no room in memory.
        """
        from nmerge_core.merging.engine import load
        from nmerge_core.merging.recipe.recipe import Recipe
        from nmerge_core.resident import LiveMerge, hold_family

        recipe = load(content)
        if not isinstance(recipe, Recipe):
            raise InputError("mergekit's methods are merged to disk: start the merge")
        values = recipe.values()
        if recipe.method.searches(values) or recipe.method.solves(values):
            raise InputError(
                f"{recipe.method.title} finds coefficients by running the models on texts: start the merge. Its report "
                "opens in the controls with the coefficients it found, and from then on the answers follow"
            )
        references = [*([recipe.base_model] if recipe.base_model else []), *recipe.references]
        checkpoints = [open_checkpoint(reference) for reference in references]
        asked = (recipe.base_model is None, recipe.dtype, str(recipe.tokenizer), str(recipe.chat_template))
        key = (*references, *map(model_fingerprint, checkpoints), *asked)
        if self._live is None or self._live[0] != key:
            self.release()
            _check_room(recipe, sum(checkpoint.bytes for checkpoint in checkpoints), len(checkpoints))
            self._live = (key, LiveMerge(hold_family(recipe), recipe))
        live = self._live[1]
        return live, live.follow(recipe)

    def release(self) -> None:
        """Free the memory: a run begins, which may need it."""
        self._live = None


def _check_room(recipe: "Recipe", weights: int, models: int) -> None:
    """Check that the weights of a family and of one merge fit; raises InputError that says the sizes."""
    needed, where = weights * (models + 1) / models, "memory"
    room = _LIVE_SHARE * total_memory()
    if choose_device() != CPU:
        import torch

        torch.cuda.empty_cache()  # what was released before counts as free
        room, where = _LIVE_SHARE * torch.cuda.mem_get_info()[0], "GPU memory"
    if needed > room:
        raise InputError(
            f"these {models} models and their merge take {needed / 1e9:.1f} GB, and {room / 1e9:.1f} GB of {where} are "
            "there for answers that follow the controls; start the merge, and ask it on Evaluate"
        )
