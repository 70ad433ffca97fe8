"""The classification folder: what was collected from a model, in files that any tool reads.

neurons.parquet       layer, neuron, category, count_<category>…, undecided (whether the category hangs on the order of
                      equal scores, `categories.undecided`), exemplars (top-k ids, best first), values
summary.csv           layer, category, neurons
meta.json             model, corpus, categories and parameters, and `widths`, the number of neurons of each layer
top.safetensors       ids, values, positions (layers, d_ffn, K) of the K best exemplars, by value, then by id; d_ffn is
                      that of the widest layer, zeros follow the neurons of narrower ones
scores.safetensors    layer.<l> (exemplars, d_ffn) in the format the model ran in: all a_j(s)
exemplars.parquet     id, category, text
statistics.safetensors  layer.<l>.<name>, where it is asked for: what φ is like over all tokens (`statistics`)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import safe_open

from nmerge_core.activations.grid import Grid
from nmerge_core.activations.statistics import load, table
from nmerge_core.architecture import Architecture
from nmerge_core.checkpoints.header import read_header
from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import read_object, read_parquet, reading

THUMBNAILS = "thumbnails.parquet"  # of a corpus of images
_META: Mapping[str, type] = {
    "label": str,
    "model": str,
    "categories": list,
    "layers": list,
    "exemplar_categories": list,
    "top_k": int,
    "margin": int,
    "max_length": int,
}
_WORDS = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "F64": np.float64}


@dataclass(frozen=True)
class Classification:
    """A classification folder that was opened; arrays are read when asked for, layer by layer."""

    folder: Path
    meta: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The short name of the model."""
        return self.meta["label"]

    @property
    def categories(self) -> tuple[str, ...]:
        """The names of the categories, General first."""
        return tuple(self.meta["categories"])

    @property
    def layers(self) -> tuple[int, ...]:
        """The numbers of the layers."""
        return tuple(self.meta["layers"])

    @property
    def widths(self) -> dict[int, int]:
        """The number of neurons of each layer."""
        return dict(zip(self.layers, self.meta["widths"], strict=True))

    @property
    def stacks(self) -> dict[str, list[int]]:
        """The layers of each stack of a model that has several, such as encoder and decoder; empty of any other."""
        found: dict[str, list[int]] = self.meta.get("stacks", {})
        return found if len(found) > 1 else {}

    @property
    def images(self) -> bool:
        """Whether the exemplars are images."""
        return bool(self.meta.get("images"))

    @property
    def grid(self) -> Grid | None:
        """Where the tokens of an image lie, where that is known."""
        return Grid(**self.meta["grid"]) if self.meta.get("grid") else None

    @property
    def run_dtype(self) -> str:
        """The number format that the model ran in, such as "bfloat16"; empty where an older folder does not say."""
        return self.meta.get("run_dtype", "")

    @property
    def exemplar_categories(self) -> NDArray[np.int64]:
        """The (exemplars,) category index of each exemplar id."""
        return np.array(self.meta["exemplar_categories"], dtype=np.int64)

    def top(self, layer: int, k: int | None = None) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return ids and scores (d_ffn, k) of each neuron's best exemplars, best first; all that are stored by default.

        Raises:
            InputError: there is no such layer.
        """
        return self._layer("ids", layer, k), self._layer("values", layer, k)

    def positions(self, layer: int, k: int | None = None) -> NDArray[np.int32]:
        """Return (d_ffn, k): the token at which each score of `top` was reached."""
        return self._layer("positions", layer, k)

    def scores(self, layer: int, neurons: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return (exemplars, neurons): all scores of some neurons of a layer, in the order asked for."""
        path = self.folder / "scores.safetensors"
        with reading(path):
            stored = read_header(path)[f"layer.{layer}"]
            words = np.memmap(path, _WORDS[stored.dtype], "r", stored.offset, stored.shape)[:, neurons]
        return ((words.astype(np.uint32) << 16).view(np.float32) if stored.dtype == "BF16" else words).astype(float)

    def neurons(self) -> pd.DataFrame:
        """Return neurons.parquet: one row per neuron, with the parameters the folder was made with."""
        return read_parquet(self.folder / "neurons.parquet", ("layer", "neuron", "category"))

    def statistics(self) -> pd.DataFrame:
        """Return what φ of each neuron is like over all tokens, as `activations.statistics.table` has it.

        Raises:
            InputError: the folder was made without statistics.
        """
        return table(load(self.folder, self.layers))

    def exemplars(self) -> pd.DataFrame:
        """Return the exemplars: id, category, text."""
        return read_parquet(self.folder / "exemplars.parquet", ("id", "category", "text"))

    def thumbnails(self) -> dict[int, bytes]:
        """Return what the model was shown of each image, small, as PNG by exemplar id."""
        found = read_parquet(self.folder / THUMBNAILS, ("id", "png"))
        return dict(zip(found["id"].tolist(), found["png"], strict=True))

    def check_neurons_of(self, model: str, architecture: Architecture) -> None:
        """Check that these are neurons of a model of this architecture, or of one stack of it, as of CLIP.

        Raises:
            InputError: they are not.
        """
        found, layers = self.widths, architecture.layers
        if self.layers in architecture.stacks.values():
            layers = tuple(layers[layer] for layer in self.layers)
        expected = {mlp.layer: mlp.d_ffn for mlp in layers}
        for layer in sorted({*expected, *found}):
            if expected.get(layer) != found.get(layer):
                raise InputError(
                    f"{self.folder}: expected a classification of {model}, with {expected.get(layer, 0):,} neurons in "
                    f"layer {layer}, found {found.get(layer, 0):,} there; classify this model or its base"
                )

    def _layer(self, name: str, layer: int, k: int | None) -> NDArray[Any]:
        if layer not in self.layers:
            raise InputError(f"{self.folder}: no layer {layer}; it has layers {self.layers[0]} to {self.layers[-1]}")
        path, index, width = self.folder / "top.safetensors", self.layers.index(layer), self.widths[layer]
        with reading(path), safe_open(path, framework="numpy") as file:
            found = file.get_slice(name)[index : index + 1, :width, slice(k)][0]
            if found.ndim != 2 or len(found) != width:
                raise ValueError(f"{name}: found the shape {found.shape}, expected one row for each of {width}")
        return found


def open_classification(folder: str | Path) -> Classification:
    """Open a classification folder.

    Raises:
        InputError: it is not one, it is not complete, or it is damaged.
    """
    folder = Path(folder)
    for name in ("meta.json", "top.safetensors", "neurons.parquet", "exemplars.parquet"):
        if not (folder / name).is_file():
            found = f"no {name} in it" if folder.is_dir() else "no such folder"
            raise InputError(
                f"{folder}: expected a folder written by `classify`, found {found}; `nmerge classify MODEL --corpus C "
                f"--out {folder}` writes one"
            )
    path = folder / "meta.json"
    meta = read_object(path, _META)
    with reading(path):
        if not meta["layers"] or max(meta["exemplar_categories"], default=0) >= len(meta["categories"]):
            raise ValueError("layers or categories are missing")
        if "widths" not in meta:  # up to version 0.2 a model's layers had one number of neurons
            meta["widths"] = [int(meta["d_ffn"])] * len(meta["layers"])
        if [type(width) for width in meta["widths"]] != [int] * len(meta["layers"]):
            raise ValueError("widths: expected a number for each layer")
    return Classification(folder, meta)
