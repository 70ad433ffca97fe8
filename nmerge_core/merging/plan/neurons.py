"""The categories of the base's neurons that a merge goes by: read from a classification, or classified on the way."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nmerge_core.corpus import check_categories
from nmerge_core.errors import InputError
from nmerge_core.kept_files import read_parquet
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.values import Values

if TYPE_CHECKING:
    import pandas as pd


def check_neurons(context: Context, values: Values, tasks: Sequence[str]) -> None:
    """Check that a classification of the base, or a corpus to classify it with, has the tasks' categories.

    Raises:
        InputError: neither is named, a category is missing, or stored exemplars cannot vote again as is asked.
    """
    neurons, corpus = values.shared["neurons"], values.shared["corpus"]
    top_k, margin = values.shared["top_k"], values.shared["margin"]
    if neurons:
        folder = context.recipe.path(neurons)
        known = sorted(_checked(context, _categories(folder, None, None), neurons)["category"].unique())
        if strange := [task for task in tasks if task not in known]:
            expected = f"categories of neurons ({', '.join(known)})"
            raise context.wrong("models[].parameters.category", expected, strange)
        if top_k is not None or margin is not None:
            from nmerge_core.activations.store import open_classification
            from nmerge_core.classification import check_vote

            check_vote(open_classification(folder), k=top_k, margin=margin)
    elif corpus:
        check_categories(context.recipe.corpus(corpus), tasks)
    else:
        expected = "the folder of a classification of the base (`classify BASE … --out DIR`), or a 'corpus'"
        raise context.wrong("parameters.neurons", expected, "neither")


def neuron_categories(context: Context, values: Values) -> "pd.DataFrame":
    """Return the base's neuron categories (layer, neuron, category), read or classified on the way.

    Raises:
        InputError: the folder is of another model.
    """
    neurons, corpus = values.shared["neurons"], values.shared["corpus"]
    top_k, margin = values.shared["top_k"], values.shared["margin"]
    if neurons:
        return _checked(context, _categories(context.recipe.path(neurons), top_k, margin), neurons)
    from nmerge_core.classification import classify

    with TemporaryDirectory(prefix="nmerge-neurons-") as folder:
        out = Path(folder) / "neurons"
        classify(
            context.recipe.base_model or "",
            context.recipe.corpus(corpus),
            out,
            top_k=top_k or 10,
            margin=1 if margin is None else margin,
            device=context.stream.device,
            run_dtype=context.recipe.run_dtype,
            progress=context.progress,
        )
        return _checked(context, _categories(out, None, None), corpus)


def _checked(context: Context, categories: "pd.DataFrame", source: str) -> "pd.DataFrame":
    """Return categories of neurons if they are of the base's; raises InputError where they are of another model's."""
    found = categories.groupby("layer")["neuron"].count().to_dict()
    expected = {mlp.layer: mlp.d_ffn for mlp in context.stream.donor.architecture.layers}
    if found != expected:
        raise InputError(
            f"{source}: expected categories of the base's {sum(expected.values()):,} neurons in {len(expected)} "
            f"layers, found {sum(found.values()):,} in {len(found)}; classify this base model and name that folder"
        )
    return categories


def _categories(folder: Path, top_k: int | None, margin: int | None) -> "pd.DataFrame":
    """Read the categories of a classification, or vote again where `top_k` or `margin` say so."""
    file, columns = folder / "neurons.parquet", ["layer", "neuron", "category"]
    if not file.exists():
        raise InputError(f"{file}: missing; expected the folder of a classification (`classify MODEL … --out DIR`)")
    if top_k is None and margin is None:
        return read_parquet(file, columns)[columns]
    from nmerge_core import classification
    from nmerge_core.activations.store import open_classification

    return classification.neuron_categories(open_classification(folder), k=top_k, margin=margin)
