"""What a method found out before it merges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

NEURONS_FOLDER = "nmerge_neurons"  # of an output: the neuron groups that its merge used


@dataclass(frozen=True)
class Prepared:
    """What a method's `prepare` found: `solved` goes into the resolved recipe, `report` into the report.

    `solved_each` has a value per model. `categories` holds the neuron groups that were used, for the output to carry;
    `inputs` the fingerprint of what else was read beside the models; `data` is the method's own.
    """

    data: Any = None
    solved: Mapping[str, Any] = field(default_factory=dict)
    solved_each: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    categories: "pd.DataFrame | None" = None
