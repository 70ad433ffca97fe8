"""A merge that stays in memory and follows its recipe, for notebooks."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nmerge_core.errors import InputError
from nmerge_core.face.calls import Reference
from nmerge_core.face.merges import merge
from nmerge_core.face.results import Merged
from nmerge_core.merging import engine
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.parameters.settings import DEVICE
from nmerge_core.progress import shown_progress
from nmerge_core.runs.kept import finished_results

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Live:
    """A merge in memory: its weights are, bit for bit, those that `merge` writes for the recipe it followed last.

    Attributes:
        tensors: how many tensors were merged anew for it.
        seconds: how long that took.
    """

    def __init__(self, recipe: Recipe, device: str, progress: bool) -> None:
        """Hold the models of a recipe and merge them."""
        # Imported here: it brings torch along.
        from nmerge_core.resident import LiveMerge, hold_family

        self._live = LiveMerge(hold_family(recipe, device, shown_progress(progress)), recipe)
        self._follow(recipe, progress)

    def follow(self, recipe: Reference | Mapping[str, Any], *, progress: bool = True) -> "Live":
        """Merge by another recipe of the same models, anew what it says otherwise; return this merge.

        Raises:
            InputError: the recipe is wrong, or of other models.
        """
        self._follow(_own(recipe), progress)
        return self

    def _follow(self, recipe: Recipe, progress: bool) -> None:
        found = self._live.follow(recipe, shown_progress(progress), kept=finished_results)
        self.tensors, self.seconds = found.tensors, found.seconds

    @property
    def model(self) -> "PreTrainedModel":
        """The merged model as transformers runs it; its weights change as it follows."""
        return self._live.language_model.model

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer that the merge would be written with."""
        return self._live.language_model.tokenizer

    def generate(self, prompt: str, *, max_new_tokens: int = 64) -> str:
        """Continue a prompt greedily, by at most so many tokens.

        Raises:
            InputError: the prompt is empty.
        """
        from nmerge_core.answers import Manner, go_on, prompt_tokens

        asked = self._live.language_model
        return go_on(asked, prompt_tokens(asked, prompt), (), max_new_tokens, Manner()).text

    def keep(self, out: Reference | None = None, *, progress: bool = True) -> Merged:
        """Write the merge as it is into a complete checkpoint, as `merge` does."""
        return merge(self._live.recipe.content, out, progress=progress)


def live(recipe: Reference | Mapping[str, Any], *, device: str = DEVICE.default, progress: bool = True) -> Live:
    """Merge models in memory, for a merge that follows its recipe: change it, and only what changed is merged anew.

    Args:
        recipe: a YAML file, its text, or what stands in it.
        device: "auto", "cpu", "cuda:1", ….
        progress: whether it is shown.

    Raises:
        InputError: the recipe is wrong, does not fit its models, or is mergekit's to merge.
    """
    return Live(_own(recipe), device, progress)


def _own(recipe: Reference | Mapping[str, Any]) -> Recipe:
    read = engine.load(recipe)
    if not isinstance(read, Recipe):
        raise InputError("recipe: mergekit's and those in stages are merged to disk alone; use `merge`")
    return read
