"""Write a classification folder (`store` says what is in it and reads it)."""

from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nmerge_core.activations.collect import Scores
from nmerge_core.activations.store import THUMBNAILS
from nmerge_core.corpus.corpus import Corpus
from nmerge_core.files.folders import save_tensors
from nmerge_core.loading import ImageModel
from nmerge_core.parallel import in_order
from nmerge_core.pictures import Picture
from nmerge_core.progress import Progress

STORED = 50
"""Exemplars kept for each neuron: the largest k that can be asked for later."""
SIDE = 112  # pixels of a thumbnail's longer side


def write_top(folder: Path, scores: Scores, progress: Progress) -> None:
    """Write top.safetensors."""
    best: dict[str, list[Tensor]] = {"ids": [], "values": [], "positions": []}
    for done, (values, positions) in enumerate(zip(scores.values, scores.positions, strict=True)):
        progress("Top exemplars", done, len(scores.layers), "layers")
        ids = best_exemplars(values, STORED)  # (d_ffn, K)
        best["ids"].append(ids.int())
        best["values"].append(values.T.gather(1, ids).float())
        best["positions"].append(positions.T.gather(1, ids).int())
    # (layers, d_ffn of the widest, K): zeros follow the neurons of narrower layers.
    padded = {name: torch.nn.utils.rnn.pad_sequence(layers, batch_first=True) for name, layers in best.items()}
    save_tensors(padded, folder / "top.safetensors")


def best_exemplars(values: Tensor, k: int) -> Tensor:
    """Return (d_ffn, k), or fewer: the exemplars of the largest scores (exemplars, d_ffn), equal ones in order of id.

    A score that is not negative is ordered like its bits; behind them the id makes every score another, so that the k
    largest are found without sorting all.
    """
    exemplars = len(values)
    bits = values.float().view(torch.int32).long() << 32
    ranks = bits | torch.arange(exemplars - 1, -1, -1, device=values.device)[:, None]  # (exemplars, d_ffn)
    return ranks.T.contiguous().topk(min(k, exemplars), dim=1).indices


def write_exemplars(folder: Path, corpus: Corpus) -> None:
    """Write exemplars.parquet."""
    rows = [(exemplar.id, exemplar.category, exemplar.text) for exemplar in corpus.exemplars]
    pd.DataFrame(rows, columns=["id", "category", "text"]).to_parquet(folder / "exemplars.parquet", index=False)


def write_thumbnails(folder: Path, model: ImageModel, corpus: Corpus, progress: Progress) -> None:
    """Write thumbnails.parquet: of each image what the model is shown, scaled and cut, `SIDE` pixels at most."""
    rows, pictures = [], [each.picture for each in corpus.exemplars if each.picture]
    for id, png in enumerate(in_order(partial(_thumbnail, model), pictures)):
        progress("Thumbnails", id, len(pictures), "images")
        rows.append((id, png))
    pd.DataFrame(rows, columns=["id", "png"]).to_parquet(folder / THUMBNAILS, index=False)


def _thumbnail(model: ImageModel, picture: Picture) -> bytes:
    shown = model.prepared(picture, do_rescale=False, do_normalize=False)[0]  # (3, height, width), from 0 to 255
    image = Image.fromarray(shown.permute(1, 2, 0).clamp(0, 255).byte().numpy())
    image.thumbnail((SIDE, SIDE))
    image.save(buffer := BytesIO(), "PNG")
    return buffer.getvalue()


def neuron_table(
    layer: int,
    categories: Sequence[str],
    category: NDArray[np.integer],
    counts: NDArray[np.integer],
    undecided: NDArray[np.bool_],
    ids: NDArray[np.int32],
    values: NDArray[np.float32],
) -> pa.Table:
    """Return the rows of neurons.parquet of one layer.

    Args:
        layer: the layer.
        categories: names of the categories.
        category: (d_ffn,) category index of each neuron.
        counts: (d_ffn, categories) votes.
        undecided: (d_ffn,) whether the category hangs on the order of equal scores.
        ids: (d_ffn, k) exemplars that voted, best first.
        values: (d_ffn, k) their scores.
    """
    d_ffn, k = ids.shape
    offsets = pa.array(np.arange(0, d_ffn * k + 1, k, dtype=np.int32))
    columns = {
        "layer": pa.array(np.full(d_ffn, layer, dtype=np.int32)),
        "neuron": pa.array(np.arange(d_ffn, dtype=np.int32)),
        "category": pa.array(np.array(categories)[category]),
        **{f"count_{name}": pa.array(counts[:, index].astype(np.int32)) for index, name in enumerate(categories)},
        "undecided": pa.array(undecided),
        "exemplars": pa.ListArray.from_arrays(offsets, pa.array(ids.ravel())),
        "values": pa.ListArray.from_arrays(offsets, pa.array(values.ravel())),
    }
    return pa.table(columns)


def write_neurons(folder: Path, tables: Sequence[pa.Table], categories: Sequence[str]) -> None:
    """Write neurons.parquet and its summary.csv, in which every layer has every category."""
    neurons = pa.concat_tables(tables)
    pq.write_table(neurons, folder / "neurons.parquet")
    frame = neurons.select(["layer", "category"]).to_pandas()
    counts = pd.crosstab(frame["layer"], frame["category"]).reindex(columns=list(categories), fill_value=0)
    counts.rename_axis(columns="category").stack().rename("neurons").reset_index().to_csv(
        folder / "summary.csv", index=False
    )
