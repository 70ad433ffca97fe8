"""The statistics of each model on its texts that a merge goes by: read from a folder, or collected on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmerge_core.checkpoints import Checkpoint, open_checkpoint
from nmerge_core.checkpoints.heads import is_head
from nmerge_core.checkpoints.stacked import Part
from nmerge_core.corpus.corpus import check_categories
from nmerge_core.errors import InputError
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.kept import Measurement
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.slices import Slice
from nmerge_core.merging.recipe.values import Values

if TYPE_CHECKING:
    from nmerge_core.calibration import Statistics


@dataclass(frozen=True)
class _Wanted:
    """Statistics of one checkpoint: a folder that has them, or the category on whose texts they are collected."""

    checkpoint: Checkpoint
    folder: Path | None
    category: str

    @property
    def texts(self) -> tuple[str, str]:
        """Whose texts they are collected on, if need be: a model's, of a category."""
        return self.checkpoint.reference, self.category


def _wanted(context: Context, values: Values) -> list[_Wanted]:
    """Say what is wanted of each that is merged, or of the base by a method that is told of one folder for it."""
    if "statistics" in values.shared:
        checkpoints, folders = [context.stream.donor], [values.shared["statistics"]]
        categories = [values.shared["category"]]
    else:
        opened = {name: open_checkpoint(name) for name in context.recipe.references}
        checkpoints = [opened[each.model] for each in context.recipe.merged]
        folders, categories = values.beside("statistics"), context.task_categories(values)
    found = [folder and context.recipe.path(folder) for folder in folders]
    return [_Wanted(*each) for each in zip(checkpoints, found, categories, strict=True)]


def check_statistics(context: Context, values: Values, kind: str) -> None:
    """Check that statistics are of their models, or a corpus to collect them on is named; raises InputError."""
    from nmerge_core.calibration import open_statistics

    wanted = _wanted(context, values)
    for each in wanted:
        if each.folder:
            open_statistics(each.folder, kind, each.checkpoint)
    lacking = [each.category for each in wanted if not each.folder]
    if lacking and not values.shared["corpus"]:
        per_base = "statistics" in values.shared
        whose, corpus = ("the base", "a 'corpus'") if per_base else ("each model", "a 'corpus' for all")
        expected = f"a folder of `statistics MODEL --kind {kind} …` for {whose}, or {corpus}"
        raise context.wrong("models[].parameters.statistics", expected, "neither")
    if lacking:
        check_categories(context.recipe.corpus(values.shared["corpus"]), lacking)


def statistics_of(context: Context, values: Values, kind: str) -> "list[Statistics]":
    """Return statistics, from their folder, else from the cache or a finished run, else collected here.

    They are those of each model, or of the base where the method is told of one folder for it. In slices each tensor's
    are of the model that it comes from.

    Raises:
        InputError: a folder is of another model or kind.
    """
    from nmerge_core.calibration import cache_folder, cached, open_statistics

    drawn: dict[str, Any] = {
        "samples": values.shared["samples"],
        "seed": context.recipe.seed,
        "device": context.device,
    }
    wanted = _wanted(context, values)
    if any(each.folder is None for each in wanted):
        corpus = context.recipe.corpus(values.shared["corpus"])
        lacking = dict.fromkeys(
            each.texts
            for each in wanted
            if each.folder is None and not cache_folder(each.checkpoint, corpus, kind, each.category, **drawn).exists()
        )
        told = {"corpus": corpus, "kind": kind, **drawn}
        asked = [{"model": model, "categories": [category], **told} for model, category in lacking]
        kept = dict(zip(lacking, context.kept([Measurement("statistics", each) for each in asked]), strict=True))
        wanted = [replace(each, folder=each.folder or kept.get(each.texts)) for each in wanted]
    found = [
        open_statistics(each.folder, kind, each.checkpoint)
        if each.folder
        else cached(each.checkpoint, corpus, kind, each.category, **drawn, progress=context.progress)
        for each in wanted
    ]
    if context.recipe.slices:
        found = _stacked(context.recipe.slices, wanted, found)
    for own in found:
        covered = own.tensors.tensors if kind == "fisher" else own.of_weights
        if not any(name in covered for name in context.names):
            raise InputError(
                f"{own.folder}: expected statistics of tensors named as in {context.stream.donor.reference}, found "
                f"{next(iter(covered), 'none')} …; save the model as that one is saved, and collect them again"
            )
    return found


def _stacked(slices: Sequence[Slice], wanted: Sequence[_Wanted], found: "Sequence[Statistics]") -> "list[Statistics]":
    """Return the statistics of each place among a slice's models; `found` are of all, slice after slice."""
    from nmerge_core.calibration import stacked_statistics

    places = len(slices[0].models)
    return [
        stacked_statistics(
            [
                Part(each.checkpoint, own.models[place].first, own.models[place].last)
                for each, own in zip(wanted[place::places], slices, strict=True)
            ],
            found[place::places],
        )
        for place in range(places)
    ]


def shared_grams(statistics: "Sequence[Statistics]") -> dict[str, str]:
    """Return which Gram matrix belongs to each weight, in all models; a head that some of them tie has none.

    Raises:
        InputError: they are of other linear layers than the first model's.
    """
    first, unlike = statistics[0], set[str]()
    for other in statistics[1:]:
        own = {name for name, _ in other.of_weights.items() ^ first.of_weights.items()}
        if not all(map(is_head, own)):
            raise InputError(
                f"{other.folder}: expected Gram matrices of the same linear layers as in {first.folder}, found "
                "others; collect both with this version"
            )
        unlike |= own
    return {name: gram for name, gram in first.of_weights.items() if name not in unlike}


def prepared_by(
    context: Context, values: Values, statistics: "Sequence[Statistics]", data: Any, warnings: Sequence[str] = ()
) -> Prepared:
    """Return what a method found that merges by `statistics`.

    The resolved recipe names the folders that were given, and for the others the texts to collect them on again,
    as the cache, where those lie, may be cleared.
    """
    folders = [folder and str(context.recipe.path(folder).resolve()) for folder in values.beside("statistics")]
    categories = zip(folders, values.beside("category"), context.task_categories(values), strict=True)
    corpus = str(Path(context.recipe.corpus(values.shared["corpus"])).resolve()) if None in folders else None
    return Prepared(
        data,
        solved={"corpus": corpus},
        solved_each={
            "statistics": folders,
            "category": [given if folder else found for folder, given, found in categories],
        },
        report={"statistics": measured_on(statistics), "warnings": list(warnings)},
    )


def measured_on(statistics: "Sequence[Statistics]") -> list[dict[str, Any]]:
    """Return what the report says of statistics: whose, and on which texts."""
    keys = ("label", "corpus", "categories", "texts", "tokens")
    folders = {part.folder: part for each in statistics for part in (each.parts or (each,))}
    return [{**{key: each.meta[key] for key in keys}, "fingerprint": each.fingerprint} for each in folders.values()]
