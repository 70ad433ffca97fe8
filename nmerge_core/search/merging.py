"""The merges of a sweep, one after the other: in memory, where each follows the one before, else through the disk."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from nmerge_core.checkpoints.tokenizer import load_tokenizer
from nmerge_core.errors import InputError
from nmerge_core.kinds import SCORED, kind_of
from nmerge_core.loading import LanguageModel, load_model
from nmerge_core.machine import CPU, total_memory
from nmerge_core.merging.pipeline import merge_opened, resolved
from nmerge_core.merging.plan.kept import Kept, nothing_kept
from nmerge_core.merging.plan.opened import Opened, open_recipe, reopen
from nmerge_core.merging.recipe.prepared import NEURONS_FOLDER
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.progress import Progress
from nmerge_core.resident import LiveMerge, Place, hold_family

RECIPE = "nmerge_recipe.yaml"  # as a merged checkpoint has it
_SHARE = 0.5  # of the memory, that the models and their merge may take


class Merges:
    """Merges recipes one after the other and gives each as a model that runs, with the bits that `merge` writes."""

    def __init__(self, first: Recipe, device: str, run_dtype: str, kept: Kept = nothing_kept) -> None:
        """Open the first recipe's models.

        Raises:
            InputError: they do not fit together, or a merge of them cannot be run: told here of the model that is
                named, as a trial's own folder says nothing to anybody.
        """
        self._opened = open_recipe(first, device)
        if kind_of(self._opened.stream.donor).reads_text:
            load_tokenizer(self._opened.vocabulary.tokenizer)
        self._device, self._run_dtype, self._kept = device, run_dtype, kept
        self._live: LiveMerge | None = None
        self._tried: object = None  # what of a recipe decides whether the merge that is held can follow it

    @contextmanager
    def merged(self, recipe: Recipe, folder: Path, progress: Progress) -> Iterator[LanguageModel]:
        """Merge a recipe, write it with all that was found out into `folder`, and yield the merge while it is there.

        Raises:
            InputError: it cannot be merged.
        """
        self._opened = reopen(self._opened, recipe, self._device)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        live = self._held(recipe, progress)
        if live:
            prepared = live.follow(recipe, progress, self._kept).prepared
            (folder / RECIPE).write_text(resolved(self._opened, prepared).yaml, encoding="utf-8")
            if prepared.categories is not None:
                (folder / NEURONS_FOLDER).mkdir()
                prepared.categories.to_parquet(folder / NEURONS_FOLDER / "neurons.parquet", index=False)
            yield replace(live.language_model, label="merge")
            return
        checkpoint = folder / "merged"
        try:
            merge_opened(self._opened, checkpoint, progress, self._kept)
            copy_recipe(checkpoint, folder)
            yield replace(load_model(str(checkpoint), self._device, self._run_dtype, kinds=SCORED), label="merge")
        finally:
            shutil.rmtree(checkpoint, ignore_errors=True)

    def write(self, folder: Path, out: Path, progress: Progress) -> None:
        """Merge a recipe that was written into a folder, as a checkpoint."""
        merge_opened(open_recipe(load_recipe(folder / RECIPE), self._device), out, progress, self._kept)

    def _held(self, recipe: Recipe, progress: Progress) -> LiveMerge | None:
        """Return the merge in memory that can follow a recipe; None where there can be none."""
        models = (recipe.base_model, recipe.references, recipe.layers)
        decides = (*models, recipe.dtype, recipe.tokenizer, recipe.chat_template)
        if self._tried != decides:
            self._live, self._tried = None, decides
            if self._opened.vocabulary.rows is None:  # else it has other rows than the model that it would be put into
                try:
                    place = _place(self._opened)
                    self._live = LiveMerge(
                        hold_family(recipe, self._device, progress, place=place), recipe, self._run_dtype
                    )
                except InputError:  # transformers keeps its weights otherwise than the files
                    self._live = None
        return self._live


def copy_recipe(source: Path, target: Path) -> None:
    """Copy a resolved recipe, and the neurons that it names, from one folder into another."""
    shutil.copyfile(source / RECIPE, target / RECIPE)
    copy_neurons(source, target)


def copy_neurons(source: Path, target: Path) -> None:
    """Copy the neurons that a resolved recipe names, where it does."""
    if (source / NEURONS_FOLDER).exists():
        shutil.rmtree(target / NEURONS_FOLDER, ignore_errors=True)
        shutil.copytree(source / NEURONS_FOLDER, target / NEURONS_FOLDER)


def _place(opened: Opened) -> Place:
    """Choose where the models' weights are held, beside one merge of them."""
    stream = opened.stream
    weights = sum(checkpoint.bytes for checkpoint in stream.checkpoints)
    needed = weights + weights / len(stream.checkpoints)
    memory = _SHARE * total_memory()
    if stream.device == CPU:
        return "device" if needed <= memory else "files"
    import torch

    torch.cuda.empty_cache()  # what was released before counts as free
    if needed <= _SHARE * torch.cuda.mem_get_info(stream.device)[0]:
        return "device"
    return "memory" if weights <= memory else "files"
