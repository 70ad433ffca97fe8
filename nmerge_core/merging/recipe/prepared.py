"""What a method found out before it merges, and which of it is worth seeing."""

import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

NEURONS_FOLDER = "nmerge_neurons"  # of an output: the neuron groups that its merge used


@dataclass(frozen=True)
class Result:
    """Something a method finds out, under its name in the report: what pages draw of it, and how.

    A `number` is one; `models` a number per model; `layers` rows {"layer": 0, "model": label, NAME: number}, drawn as a
    line per model over the layers, with "part" (attention, mlp, a category, …) a panel per part; `history` a number per
    step or candidate; a `table` rows of anything. The title is the axis' too.
    """

    name: str
    title: str
    form: Literal["number", "models", "layers", "history", "table"]
    help: str = ""


class _ByValue(pickle.Pickler):
    """Pickles tensors by their values: torch's own way tells of the storage's address, another in each process."""

    def reducer_override(self, value: Any) -> Any:
        """Reduce a tensor to its type, its shape and its bytes."""
        if type(value).__module__ != "torch" or type(value).__name__ != "Tensor":
            return NotImplemented
        import torch  # is there already, as there is a tensor

        flat = value.detach().cpu().contiguous().flatten()
        return tuple, ((str(value.dtype), tuple(value.shape), flat.view(torch.uint8).numpy().tobytes()),)


@dataclass(frozen=True)
class Prepared:
    """What a method's `prepare` found: `solved` goes into the resolved recipe, `report` into the report.

    `solved_each` has a value for each of `Recipe.merged`. `results` are those that it found beside its method's own.
    `categories` holds the neuron groups that were used, for the output to carry. `data` is what the method merges by:
    it can be pickled, as all processes that share a merge are told it, and a merge that was stopped goes on only where
    it is the same.
    """

    data: Any = None
    solved: Mapping[str, Any] = field(default_factory=dict)
    solved_each: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    results: Sequence[Result] = ()
    categories: "pd.DataFrame | None" = None

    @cached_property
    def digest(self) -> str:
        """A digest of all that a method merges by: a half-done merge goes on only where it would find the same."""
        file = io.BytesIO()
        pickler = _ByValue(file, protocol=5)
        pickler.fast = True  # without back references, which tell of identity and not of values
        pickler.dump(self.data)
        return sha256(file.getvalue()).hexdigest()
