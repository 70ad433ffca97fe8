"""The statistics folder: tensors in safetensors files, read by rows, and meta.json, which says what they are of.

fisher   one tensor per tensor of the model, its shape, float32: the mean over texts of squared gradients
gram     one (inputs, inputs) float32 tensor per input of linear layers: the sum over tokens of x xᵀ; `grams` in
         meta.json names it for each weight that reads this input, `tokens` counts the tokens
magnitude  one (inputs,) float32 vector per input of linear layers: the sum over tokens of |x|; `magnitudes` names it
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nmerge_core.checkpoints import Checkpoint, TensorInfo, fingerprint, open_checkpoint
from nmerge_core.checkpoints.header import read_header
from nmerge_core.checkpoints.stacked import Part, origins
from nmerge_core.errors import InputError
from nmerge_core.files.in_use import InUse
from nmerge_core.files.kept_files import read_object, reading

KINDS = ("fisher", "gram", "magnitude")
VERSION = 2  # raised when what is collected changes
_META: Mapping[str, type] = {"kind": str, "model": str, "model_fingerprint": str, "tokens": int, "files": list}


def of_weights(kind: str) -> str:
    """Return the key of meta.json under which sums over inputs are named for each weight."""
    return f"{kind}s"


@dataclass(frozen=True)
class Statistics:
    """A statistics folder that was opened from its headers; `tensors` are read by rows, as those of a model.

    Attributes:
        of_weights: of sums over inputs, the tensor that belongs to each weight.
        tokens: of sums over inputs, the number of tokens that each tensor is of.
        parts: those that they are put together from, if they are not of one model.
        used: keeps the folder from being removed while they are there.
    """

    folder: Path
    meta: Mapping[str, Any]
    tensors: Checkpoint
    of_weights: Mapping[str, str]
    tokens: Mapping[str, int]
    used: InUse
    parts: "tuple[Statistics, ...]" = ()

    @property
    def fingerprint(self) -> str:
        """16 hex digits of what is stored, wherever it lies."""
        return fingerprint(self.tensors)


def open_statistics(folder: str | Path, kind: str, model: Checkpoint) -> Statistics:
    """Open a statistics folder.

    Raises:
        InputError: it is not one, it is of another kind, of another model, or a file of it is missing or truncated.
    """
    folder = Path(folder)
    used = InUse(folder)
    made = f"`statistics MODEL --kind {kind} --corpus C --out {folder}`"
    if not (folder / "meta.json").exists():
        raise InputError(f"{folder}: expected a folder written by {made}, found no meta.json in it")
    meta = read_object(folder / "meta.json", _META)
    found, of = meta["kind"], meta["model_fingerprint"]
    if found != kind:
        raise InputError(f"{folder}: expected statistics of kind {kind}, found {found}; collect them with {made}")
    own = fingerprint(open_checkpoint(model.reference))  # as it is by itself, without a head that its family gave it
    if of != own:
        raise InputError(
            f"{folder}: expected statistics of {model.reference} ({own}), found those of "
            f"{meta['model']} ({of}); collect them of this model, or name the folder of its own"
        )
    tensors: dict[str, TensorInfo] = {}
    with reading(folder / "meta.json"):
        files = [folder / name for name in meta["files"]]
        sums: Mapping[str, str] = {} if kind == "fisher" else meta[of_weights(kind)]
        tokens = dict.fromkeys(sums.values(), meta["tokens"])
    for file in files:
        tensors |= read_header(file)
    return Statistics(folder, meta, Checkpoint(str(folder), folder, meta, tensors), sums, tokens, used)


def stacked_statistics(parts: Sequence[Part], found: Sequence[Statistics]) -> Statistics:
    """Return the statistics of what is stacked of some parts, by those `found` of each part's model.

    Each tensor has those that it has in the model that it comes from. Folder and meta are the first part's.
    """
    tensors: dict[str, TensorInfo] = {}
    sums: dict[str, str] = {}
    places = origins(parts)
    names = {place: name for name, place in places.items()}
    for name, (part, own) in places.items():
        theirs = found[part]
        if own in theirs.of_weights:
            sums[name] = names[part, theirs.of_weights[own]]  # a sum is called after the first weight that reads it
        if own in theirs.tensors.tensors:
            tensors[name] = theirs.tensors.tensors[own]
    tokens = {name: found[places[name][0]].tokens[places[name][1]] for name in set(sums.values())}
    stacked = replace(found[0].tensors, tensors=tensors)
    return replace(found[0], tensors=stacked, of_weights=sums, tokens=tokens, parts=tuple(found))
