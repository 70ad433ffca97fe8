"""A recipe's models, opened from their headers alone and found to fit together."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import exists, expanduser
from pathlib import Path

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import halves, label, open_checkpoint
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.compatibility import compare_family
from nmerge_core.checkpoints.config_difference import config_differences
from nmerge_core.checkpoints.fingerprint import Stamp, fingerprint, stamps
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.matching import as_family
from nmerge_core.checkpoints.reference import same_model
from nmerge_core.checkpoints.stacked import Part, is_by_layer, stacked
from nmerge_core.checkpoints.writer import Layout, plan_layout
from nmerge_core.checkpoints.written_config import left_out
from nmerge_core.errors import InputError
from nmerge_core.inputs import Places
from nmerge_core.machine import choose_device
from nmerge_core.merging.compute.stream import Stream
from nmerge_core.merging.plan.merged_conversation import MergedConversation, merged_conversation
from nmerge_core.merging.plan.merged_vocabulary import MergedVocabulary, merged_vocabulary
from nmerge_core.merging.recipe import gradients
from nmerge_core.merging.recipe.recipe import DTYPES, Recipe
from nmerge_core.merging.recipe.slices import Slice


@dataclass(frozen=True)
class Opened:
    """A recipe whose models were opened from their headers and found to fit together.

    `named` are those that it names, the base first; where it has slices, the stream's are put together from these.
    """

    recipe: Recipe
    named: tuple[Checkpoint, ...]
    stream: Stream
    vocabulary: MergedVocabulary
    conversation: MergedConversation
    warnings: tuple[str, ...]
    stamps: Mapping[Path, Stamp]

    @property
    def places(self) -> Places:
        """Where the recipe's names lead; a model with computed weights is known by what computes them."""
        computed = {each.reference: (each.reference, fingerprint(each)) for each in self.named if each.computations}
        return Places(cache_root()).with_models(computed)

    def layout(self, folder: Path) -> Layout:
        """Lay the merge out in files of a folder."""
        dtype = self.recipe.dtype
        return plan_layout(folder, self.tensors, DTYPES[dtype] if dtype else None)

    def check_unchanged(self) -> None:
        """Check that the weight files are those that were opened; raises InputError naming the first that is not.

        So are those that weights are computed from.
        """
        for checkpoint in self.stream.checkpoints:
            for computation in checkpoint.computations:
                computation.check_unchanged()
            now = stamps([checkpoint])
            if changed := [file for file, stamp in now.items() if stamp != self.stamps[file]]:
                raise InputError(
                    f"{checkpoint.reference}: {changed[0]} was changed while it was being merged; expected the same "
                    "file from start to end. Run the merge again when nothing writes to it"
                )

    @property
    def tensors(self) -> list[TensorInfo]:
        """The merge's tensors in order of their names, layer 10 after layer 9, whatever the donor's shards.

        What the donor carries though nothing reads it is among them.
        """

        def order(tensor: TensorInfo) -> list[tuple[int, str]]:
            return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", tensor.name)]

        donor = self.stream.donor
        return sorted([*map(self.stream.info, donor.tensors), *donor.carried.values()], key=order)

    @property
    def merged_names(self) -> tuple[str, ...]:
        """The names of the tensors that are merged, in the order of `tensors`: all but what is carried."""
        return tuple(tensor.name for tensor in self.tensors if tensor.name in self.stream.donor.tensors)


def open_recipe(recipe: Recipe, device: str = "auto", made: Mapping[str, Checkpoint] | None = None) -> Opened:
    """Open a recipe's models and check that they fit together, from headers alone; those of `made` are open already.

    Raises:
        InputError: a model cannot be opened, or models do not fit together; every reason is listed.
    """
    references = _named(recipe)
    found: list[Checkpoint | InputError] = [(made or {}).get(each) or _open(each) for each in references]
    opened = named = [each for each in found if isinstance(each, Checkpoint)]
    stacks: list[str] = []
    if recipe.slices and len(opened) == len(found):
        by_name = dict(zip(references, opened, strict=True))
        stacks = _told_of_stacks(recipe.slices, by_name)
        opened = _lanes(recipe.slices, by_name)
    if opened:
        opened = as_family(opened[0], opened[1:])
    against, warnings = compare_family(opened) if opened else ([], [])
    failed = zip(found, references, strict=True)
    unopened = [f"{each}{_looked_beside(recipe, name)}" for each, name in failed if isinstance(each, InputError)]
    if reasons := unopened + against:
        listed = "these models cannot be merged:\n  " + "\n  ".join(reasons)
        raise InputError(listed if len(references) > 1 else reasons[0])
    base, models = (opened[0], opened[1:]) if recipe.base_model else (None, opened)
    stream = Stream(base, tuple(models), choose_device(device), differences=recipe.differences)
    _check_filters(recipe, stream.donor)
    vocabulary = merged_vocabulary(recipe, stream.checkpoints)
    conversation = merged_conversation(recipe, stream.checkpoints, vocabulary)
    warnings += stacks if recipe.slices else _named_again(recipe.references)
    warnings += _told_of_nothing(recipe)
    warnings += [*left_out(stream.donor, vocabulary.tokenizer), *vocabulary.warnings, *conversation.warnings]
    stream = replace(stream, vocabulary=vocabulary.rows)
    return Opened(recipe, tuple(named), stream, vocabulary, conversation, tuple(warnings), stamps(stream.checkpoints))


def _named(recipe: Recipe) -> list[str]:
    """Return the models that a recipe reads, each once where it has slices; the base first."""
    base = [recipe.base_model] if recipe.base_model else []
    sources = [source.model for each in recipe.slices for source in each.sources]
    return list(dict.fromkeys([*base, *sources])) if sources else [*base, *recipe.references]


def _lanes(slices: Sequence[Slice], opened: Mapping[str, Checkpoint]) -> list[Checkpoint]:
    """Return, of every place among a slice's sources, the checkpoint whose layers all slices' together make."""
    return [
        stacked([Part(opened[source.model], source.first, source.last) for source in sources])
        for sources in zip(*(each.sources for each in slices), strict=True)
    ]


def _told_of_stacks(slices: Sequence[Slice], opened: Mapping[str, Checkpoint]) -> list[str]:
    """Say what the configurations of stacked models differ in besides their layers: the output has the first one's."""
    told = []
    for sources in zip(*(each.sources for each in slices), strict=True):
        first, *others = (opened[name] for name in dict.fromkeys(source.model for source in sources))
        told += [
            f"{label(other.reference)}: config.json, {each}; the output takes the first model's"
            for other in others
            for each in config_differences(first.config, other.config)
            if not is_by_layer(each.key)
        ]
    return told


def _open(reference: str) -> Checkpoint | InputError:
    try:
        return open_checkpoint(reference)
    except InputError as error:
        return error


def reopen(opened: Opened, recipe: Recipe, device: str = "auto") -> Opened:
    """Open another recipe; where it merges the same models they stay open."""

    def sources(of: Recipe) -> tuple[object, ...]:
        return (of.base_model, of.references, of.layers, of.tokenizer, of.chat_template)

    if sources(opened.recipe) != sources(recipe):
        return open_recipe(recipe, device)
    _check_filters(recipe, opened.stream.donor)
    return replace(opened, recipe=recipe, stream=replace(opened.stream, differences=recipe.differences))


def _named_again(references: Sequence[str]) -> list[str]:
    """Say which models a recipe names more than once, in whatever spelling."""
    pairs = [(one, other) for index, one in enumerate(references) for other in references[:index]]
    return [
        f"{one}: the same model as {other}, which the recipe has already; it is merged twice"
        for one, other in pairs
        if same_model(one, other)
    ]


def _told_of_nothing(recipe: Recipe) -> list[str]:
    """Say where all that a method merges of differences is multiplied by 0."""
    if recipe.method.base != "needed" or recipe.method.inputs:
        return []
    values = recipe.values()
    scales = {"every weight": values.each.get("weight", ()), "λ": [values.shared.get("lambda")]}
    zero = next((name for name, found in scales.items() if found and all(each == 0 for each in found)), None)
    return [f"{zero} is 0: the merge is {recipe.base_model}, and nothing of the models is in it"] if zero else []


def _looked_beside(recipe: Recipe, reference: str) -> str:
    """Say that a model that is not there was looked for beside the recipe too."""
    if recipe.folder is None or any(exists(expanduser(half)) for half in halves(reference)):
        return ""
    return f"; nor is it in {recipe.folder.resolve()}, beside the recipe"


def _check_filters(recipe: Recipe, donor: Checkpoint) -> None:
    values = recipe.values()
    for value in (*values.shared.values(), *(own for each in values.each.values() for own in each)):
        for text in gradients.filters(value):
            if not any(text in name for name in donor.tensors):
                raise InputError(f"recipe, filter '{text}': expected a part of a tensor's name, found in none of them")
