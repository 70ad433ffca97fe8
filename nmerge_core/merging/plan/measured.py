"""The statistics of each model on its texts that a merge goes by: read from a folder, or collected on the way."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmerge_core.checkpoints.heads import is_head
from nmerge_core.corpus import check_categories
from nmerge_core.errors import InputError
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.kept import Measurement
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.values import Values

if TYPE_CHECKING:
    from nmerge_core.calibration import Statistics


def check_statistics(context: Context, values: Values, kind: str) -> None:
    """Check that statistics are of their models, or a corpus to collect them on is named; raises InputError."""
    from nmerge_core.calibration import open_statistics

    for model, folder in zip(context.stream.models, values.each["statistics"], strict=True):
        if folder:
            open_statistics(context.recipe.path(folder), kind, model)
    if not values.shared["corpus"] and None in values.each["statistics"]:
        expected = f"a folder of `statistics MODEL --kind {kind} …` for each model, or a 'corpus' for all"
        raise context.wrong("models[].parameters.statistics", expected, "neither")
    lacking = zip(values.each["statistics"], context.task_categories(values), strict=True)
    if tasks := [task for folder, task in lacking if not folder]:
        check_categories(context.recipe.corpus(values.shared["corpus"]), tasks)


def statistics_of(context: Context, values: Values, kind: str) -> "list[Statistics]":
    """Return each model's statistics: from its folder, else from the cache or a finished run, else collected here.

    Raises:
        InputError: a folder is of another model or kind.
    """
    from nmerge_core.calibration import cache_folder, cached, open_statistics

    drawn: dict[str, Any] = {
        "samples": values.shared["samples"],
        "seed": context.recipe.seed,
        "device": context.device,
    }
    folders: list[Path | None] = [each and context.recipe.path(each) for each in values.each["statistics"]]
    models, categories = context.stream.models, context.task_categories(values)
    if None in folders:
        corpus = context.recipe.corpus(values.shared["corpus"])
        lacking = [
            index
            for index, (model, category) in enumerate(zip(models, categories, strict=True))
            if folders[index] is None and not cache_folder(model, corpus, kind, category, **drawn).exists()
        ]
        told = {"corpus": corpus, "kind": kind, **drawn}
        asked = [{"model": models[i].reference, "categories": [categories[i]], **told} for i in lacking]
        kept = context.kept([Measurement("statistics", each) for each in asked])
        for index, folder in zip(lacking, kept, strict=True):
            folders[index] = folder
    found = [
        open_statistics(folder, kind, model)
        if folder
        else cached(model, corpus, kind, category, **drawn, progress=context.progress)
        for model, folder, category in zip(models, folders, categories, strict=True)
    ]
    for each in found:
        covered = each.grams if kind == "gram" else each.tensors.tensors
        if not any(name in covered for name in context.names):
            raise InputError(
                f"{each.folder}: expected statistics of tensors named as in {context.stream.donor.reference}, found "
                f"{next(iter(covered), 'none')} …; save the model as that one is saved, and collect them again"
            )
    return found


def shared_grams(statistics: "Sequence[Statistics]") -> dict[str, str]:
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
    context: Context, values: Values, statistics: "Sequence[Statistics]", data: Any, warnings: Sequence[str] = ()
) -> Prepared:
    """Return what a method found that merges by `statistics`.

    The resolved recipe names the folders that were given, and for the others the texts to collect them on again,
    as the cache, where those lie, may be cleared.
    """
    folders = [folder and str(context.recipe.path(folder).resolve()) for folder in values.each["statistics"]]
    categories = zip(folders, values.each["category"], context.task_categories(values), strict=True)
    corpus = str(Path(context.recipe.corpus(values.shared["corpus"])).resolve()) if None in folders else None
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
