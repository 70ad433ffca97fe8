"""The categories of the base's neurons that a merge goes by: read from a classification, or classified on the way."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from nmerge_core.checkpoints import Checkpoint
from nmerge_core.corpus.corpus import check_categories
from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import read_parquet
from nmerge_core.merging.plan.context import Context, Groups
from nmerge_core.merging.plan.kept import Measurement
from nmerge_core.merging.plan.neuron_lists import read_lists, with_lists
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.settings import TOP_K

if TYPE_CHECKING:
    import pandas as pd

GENERAL = "general"


def check_neurons(
    context: Context, values: Values, tasks: Sequence[str], key: str = "models[].parameters.category"
) -> None:
    """Check that a classification of the base, or a corpus to classify it with, has the categories that `key` names.

    Raises:
        InputError: neither is named, a category is missing, or stored exemplars cannot vote again as is asked.
    """
    neurons, corpus = values.shared["neurons"], values.shared["corpus"]
    top_k, margin = values.shared["top_k"], values.shared["margin"]
    if neurons:
        folder = context.recipe.path(neurons)
        known = sorted(_checked(context.stream.donor, _categories(folder, None, None), neurons)["category"].unique())
        if strange := [task for task in tasks if task not in known]:
            expected = f"categories of neurons ({', '.join(known)})"
            raise context.wrong(key, expected, strange)
        if top_k is not None or margin is not None:
            from nmerge_core.activations.store import open_classification
            from nmerge_core.classification.classification import check_vote

            check_vote(open_classification(folder), k=top_k, margin=margin)
    elif corpus:
        check_categories(context.recipe.corpus(corpus), tasks)
    else:
        expected = "the folder of a classification of the base (`classify BASE … --out DIR`), or a 'corpus'"
        raise context.wrong("parameters.neurons", expected, "neither")


@contextmanager
def classified(context: Context, values: Values) -> Iterator[Path]:
    """Yield the folder of the base's classification: the one named, a finished run's, or one made on the way."""
    neurons, corpus, top_k = values.shared["neurons"], values.shared["corpus"], values.shared["top_k"]
    if neurons:
        yield context.recipe.path(neurons)
        return
    asked: dict[str, Any] = {
        "model": context.recipe.base_model,
        "corpus": context.recipe.corpus(corpus),
        "top_k": max(TOP_K.default, top_k or 0),
        "device": context.device,
        "run_dtype": context.recipe.run_dtype,
    }
    (kept,) = context.kept([Measurement("classify", asked)])
    if kept:
        yield kept
        return
    from nmerge_core.classification.classification import classify

    with TemporaryDirectory(prefix="nmerge-neurons-") as folder:
        classify(**asked, out=Path(folder) / "neurons", progress=context.progress)
        yield Path(folder) / "neurons"


def group_neurons(
    folder: Path,
    base: Checkpoint,
    tasks: Sequence[str] | None,
    *,
    top_k: int | None,
    margin: int | None,
    grouping: str,
    lists: Mapping[str, Any] | None,
    seed: int,
) -> "pd.DataFrame":
    """Return layer, neuron and category of the base's neurons: General's, one of the tasks' or a list's name.

    The categories of tasks that are not merged fold into General (§4.1), none where `tasks` is None; the neurons of a
    list leave theirs.

    Raises:
        InputError: the folder is of another model, or cannot vote again as `top_k` and `margin` say, or a list has
            neurons that are not there.
    """
    frame = _checked(base, _categories(folder, top_k, margin), str(folder))
    if tasks is not None:
        frame = frame.assign(category=frame["category"].where(frame["category"].isin([*tasks]), GENERAL))
    frame = _shuffled(frame, seed) if grouping == "random" else frame
    return with_lists(frame, read_lists(lists, base.architecture)) if lists else frame


def neurons_of(frame: "pd.DataFrame", groups: Sequence[str]) -> Groups:
    """Return, per layer, the neurons of each of these groups in ascending order."""
    layers = {layer: own.sort_values("neuron") for layer, own in frame.groupby("layer")}
    return {
        int(layer): {group: own["neuron"].to_numpy()[(own["category"] == group).to_numpy()] for group in groups}
        for layer, own in layers.items()
    }


def _shuffled(frame: "pd.DataFrame", seed: int) -> "pd.DataFrame":
    """Give the same number of neurons of each layer to each category, at random (the control of Table 4)."""
    order = np.random.default_rng(seed)
    shuffled = frame.groupby("layer")["category"].transform(lambda layer: order.permutation(layer.to_numpy()))
    return frame.assign(category=shuffled)


def _checked(base: Checkpoint, categories: "pd.DataFrame", source: str) -> "pd.DataFrame":
    """Return categories of neurons if they are of the base's; raises InputError where they are of another model's."""
    found = categories.groupby("layer")["neuron"].count().to_dict()
    expected = {mlp.layer: mlp.d_ffn for mlp in base.architecture.layers}
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
    from nmerge_core.activations.store import open_classification
    from nmerge_core.classification import classification

    return classification.neuron_categories(open_classification(folder), k=top_k, margin=margin)
