"""Categories of a model's neurons: collect, vote and write them; vote again; compare several models."""

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nmerge_core.activations.store import Classification, open_classification
from nmerge_core.checkpoints import fingerprint, label, open_checkpoint
from nmerge_core.checkpoints import labels as short_labels
from nmerge_core.checkpoints.reference import check_labels
from nmerge_core.classification.categories import categorise, intersect, undecided
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.errors import InputError, shown
from nmerge_core.files.folders import check_free, new_folder, write_meta
from nmerge_core.number_format import AUTO
from nmerge_core.progress import Progress, silent
from nmerge_core.version import __version__

if TYPE_CHECKING:
    from nmerge_core.activations.collect import BatchSize
    from nmerge_core.loading import LanguageModel


def classify(
    model: str,
    corpus: str,
    out: Path,
    *,
    top_k: int = 10,
    margin: int = 1,
    max_length: int = 512,
    batch_size: "BatchSize" = "auto",
    device: str = "auto",
    run_dtype: str = AUTO,
    categories: Sequence[str] | None = None,
    skip_first: bool = False,
    statistics: bool = False,
    layerwise: bool = False,
    in_place: bool = False,
    earlier: Sequence[Path] = (),
    progress: Progress = silent,
) -> None:
    """Give every neuron of a model a category and write a classification folder (`activations.store` lists its files).

    The folder appears only when it is complete, unless it is made `in_place`, where the same call of one process goes
    on with what it had when it was killed. Under `accelerate launch` the exemplars are divided among the processes, and
    the first writes.

    Args:
        model: a model folder or Hub id.
        corpus: a corpus folder or YAML (see `corpus.load_corpus`).
        out: the folder to write; new or empty.
        top_k: exemplars that vote (k of Eq. 2).
        margin: votes by which a category must lead, else the neuron is General (m of App. D.3).
        max_length: tokens of an exemplar that are read.
        batch_size: exemplars a batch, or "auto".
        device: a torch device, or "auto".
        run_dtype: the number format the model runs in (see `number_format.choose_format`).
        categories: categories of the corpus to use besides General; all by default.
        skip_first: leave out the first token of exemplars.
        statistics: write what φ is like over all tokens too: statistics.safetensors (`activations.statistics`).
        layerwise: hold the weights of one layer at a time (`activations.layered`); so it is done where the whole model
            has no room, too. The scores are the same: bit for bit in float32, of routed experts within 1e-5.
        in_place: write into `out`, a folder that is there, and go on with what is in it.
        earlier: folders of the same model, read alike, by other corpora: where all texts of one are in this corpus, it
            has grown, and only the new texts are run (App. D.9); not with statistics, which are of all texts.
        progress: told of exemplars, then of layers.

    Raises:
        InputError: the corpus or the model cannot be read, `out` is in use, or a parameter is out of range.

    Source: NeuronMerge §2.2, Eqs 1 and 2, App. D.3.
    """
    from nmerge_core import distributed
    from nmerge_core.activations import kept, write
    from nmerge_core.activations.collect import collect
    from nmerge_core.activations.known import known_of
    from nmerge_core.activations.statistics import save
    from nmerge_core.loading import ImageModel

    started = time.monotonic()
    if not in_place:
        check_free(out)
    loaded = load_corpus(corpus, categories, images=True)
    stored = min(write.STORED, len(loaded.exemplars))
    if not 0 <= margin <= top_k <= stored or top_k < 1:
        raise InputError(
            f"expected 0 ≤ margin ≤ top-k and 1 ≤ top-k ≤ {stored}, found margin {margin}, top-k {top_k}; "
            f"{corpus} has {len(loaded.exemplars):,} exemplars, of which {write.STORED} are stored at most"
        )
    language_model = _opened(model, device, run_dtype, layerwise)
    known = None if statistics or distributed.processes() > 1 else known_of(earlier, loaded)
    writes = distributed.join()[0] == 0
    with (nullcontext(out) if in_place else new_folder(out)) if writes else nullcontext() as folder:
        scores = collect(
            language_model,
            loaded,
            max_length=max_length,
            batch_size=batch_size,
            skip_first=skip_first,
            statistics=statistics,
            folder=folder,
            known=known,
            progress=progress,
        )
        if folder is not None:
            write.write_top(folder, scores, progress)
            write.write_exemplars(folder, loaded)
            if isinstance(language_model, ImageModel) and loaded.images:
                write.write_thumbnails(folder, language_model, loaded, progress)
            if scores.statistics:
                save(scores.statistics, folder)
            meta = {
                "model": model,
                "label": label(model),
                "model_fingerprint": fingerprint(open_checkpoint(model)),
                "layers": list(scores.layers),
                "widths": [values.shape[1] for values in scores.values],
                "stacks": language_model.architecture.stacks,
                "images": loaded.images,
                "grid": scores.grid and asdict(scores.grid),
                "corpus": corpus,
                "corpus_fingerprint": loaded.fingerprint,
                "categories": list(loaded.categories),
                "exemplar_categories": loaded.labels.tolist(),
                "top_k": top_k,
                "margin": margin,
                "max_length": max_length,
                "skip_first": skip_first,
                "run_dtype": language_model.run_dtype,
                "taken_over": len(known.ids) if known else 0,
                "version": __version__,
            }
            meta["undecided"] = _write_categories(Classification(folder, meta), progress)
            write_meta(folder, {**meta, "seconds": round(time.monotonic() - started, 3)})
            kept.forget(folder)
    distributed.wait()


def _opened(model: str, device: str, run_dtype: str, layerwise: bool) -> "LanguageModel":
    """Load a model, or open it to run layer by layer where that is asked for or is the only way."""
    from nmerge_core.activations.layered import open_layered
    from nmerge_core.kinds import CAUSAL_KINDS, SCORED, kind_of
    from nmerge_core.loading import has_room, load_model

    checkpoint = open_checkpoint(model)
    if not layerwise and kind_of(checkpoint) in CAUSAL_KINDS and not has_room(checkpoint, device, run_dtype):
        logging.warning(f"{model} runs layer by layer: as a whole it has no room in memory")
        layerwise = True
    if layerwise:
        return open_layered(model, device, run_dtype)
    return load_model(model, device, run_dtype, kinds=SCORED)


def _write_categories(found: Classification, progress: Progress) -> int:
    """Write the categories; return the number of neurons whose category hangs on the order of equal scores."""
    from nmerge_core.activations import write

    top_k, margin = found.meta["top_k"], found.meta["margin"]
    tables, open_ = [], 0
    for done, layer in enumerate(found.layers):
        progress("Categories", done, len(found.layers), "layers")
        ids, values = found.top(layer)
        voting = found.exemplar_categories, len(found.categories), top_k, margin
        category, counts = categorise(ids, *voting)
        hangs = undecided(ids, values, *voting)
        open_ += int(hangs.sum())
        best = ids[:, :top_k], values[:, :top_k]
        tables.append(write.neuron_table(layer, found.categories, category, counts, hangs, *best))
    write.write_neurons(found.folder, tables, found.categories)
    progress("Categories", len(found.layers), len(found.layers), "layers")
    return open_


def neuron_categories(
    classification: Classification, *, k: int | None = None, margin: int | None = None
) -> pd.DataFrame:
    """Vote again on the stored exemplars, without a forward pass.

    Args:
        classification: an opened folder.
        k: exemplars that vote; the folder's own by default.
        margin: the threshold m; the folder's own by default.

    Returns:
        layer, neuron, category of every neuron.

    Raises:
        InputError: k or margin is out of range.
    """
    voted = _vote(classification, k, margin, classification.layers)
    widths = [len(layer) for layer in voted]
    return pd.DataFrame(
        {
            "layer": np.repeat(classification.layers, widths),
            "neuron": np.concatenate([np.arange(width) for width in widths]),
            "category": np.array(classification.categories)[np.concatenate(voted)],
        }
    )


def check_vote(classification: Classification, *, k: int | None, margin: int | None) -> None:
    """Check that the stored exemplars can vote so, by one layer's; raises InputError as `neuron_categories` does."""
    _vote(classification, k, margin, classification.layers[:1])


def count_undecided(classification: Classification, *, k: int | None = None, margin: int | None = None) -> int:
    """Count the neurons whose category hangs on the order of scores within 1e-5 (`categories.undecided`).

    Args:
        classification: an opened folder.
        k: exemplars that vote; the folder's own by default.
        margin: the threshold m; the folder's own by default.
    """
    k = classification.meta["top_k"] if k is None else k
    margin = classification.meta["margin"] if margin is None else margin
    labels, n_categories = classification.exemplar_categories, len(classification.categories)
    tops = (classification.top(layer) for layer in classification.layers)
    return sum(int(undecided(*top, labels, n_categories, k, margin).sum()) for top in tops)


def compare(
    folders: Sequence[Path], labels: Sequence[str] | None = None, *, k: int | None = None, margin: int | None = None
) -> pd.DataFrame:
    """Count the neurons of each category in each model, and those that have it in every model.

    Args:
        folders: classification folders, the base's first.
        labels: the models' column names; their short names by default.
        k: exemplars that vote, for all models; each folder's own by default.
        margin: the threshold m, for all models; each folder's own by default.

    Returns:
        layer, category, one column of counts per model, intersection (NeuronMerge Figs 3 and 6).

    Raises:
        InputError: a folder is not a classification, or they differ in corpus or architecture.
    """
    opened = [open_classification(folder) for folder in folders]
    for other in opened[1:]:
        _check_comparable(opened[0], other)
    names = names_of(opened) if labels is None else labels
    if len(set(names)) < len(opened):
        raise InputError(f"compare: expected a different label for each folder, found {', '.join(names)}")
    check_labels(names, "compare")
    by_layer = zip(*(_vote(found, k, margin, found.layers) for found in opened), strict=True)
    rows = []
    for layer, voted in zip(opened[0].layers, by_layer, strict=True):  # each model's (d_ffn,)
        agree = intersect(voted)  # (d_ffn,)
        for category, name in enumerate(opened[0].categories):
            counts = {label: int((each == category).sum()) for label, each in zip(names, voted, strict=True)}
            kept = int((agree & (voted[0] == category)).sum())
            rows.append({"layer": layer, "category": name, **counts, "intersection": kept})
    return pd.DataFrame(rows)


def names_of(opened: Sequence[Classification]) -> list[str]:
    """Return the short names of the models; of one that is there in several number formats with the format."""
    models = [found.meta["model"] for found in opened]
    return [
        f"{name} in {found.run_dtype}" if models.count(found.meta["model"]) > 1 else name
        for name, found in zip(short_labels(models), opened, strict=True)
    ]


def _vote(
    classification: Classification, k: int | None, margin: int | None, layers: Sequence[int]
) -> list[NDArray[np.int64]]:
    """Return the (d_ffn,) index into `classification.categories` of every neuron, for each of some layers."""
    k = classification.meta["top_k"] if k is None else k
    margin = classification.meta["margin"] if margin is None else margin
    labels, n_categories = classification.exemplar_categories, len(classification.categories)
    ids = (classification.top(layer)[0] for layer in layers)
    return [categorise(each, labels, n_categories, k, margin)[0] for each in ids]


_COMPARED = {
    "corpus_fingerprint": "corpus fingerprint",
    "categories": "categories",
    "layers": "layers",
    "widths": "neurons of each layer",
    "max_length": "maximum length",
    "skip_first": "first token skipped",
}


def comparable(first: Classification, other: Classification) -> bool:
    """Tell whether two classifications can be compared: the same texts, read alike by models of the same shape."""
    return all(first.meta[key] == other.meta[key] for key in _COMPARED)


def _check_comparable(first: Classification, other: Classification) -> None:
    for key, what in _COMPARED.items():
        if first.meta[key] != other.meta[key]:
            raise InputError(
                f"{other.folder}: {what} {shown(other.meta[key])}, expected {shown(first.meta[key])} as in "
                f"{first.folder}; "
                "classify the models of one family with the same corpus and parameters"
            )
