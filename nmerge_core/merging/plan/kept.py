"""What a merge measures by running models on texts: runs of their own, whose results are taken where they are done."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmerge_core.errors import InputError


@dataclass(frozen=True)
class Measurement:
    """A run that measures something: its kind, and the parameters that decide its results and no others."""

    kind: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class StandIn:
    """A measurement that no run has made yet, and what stands in for it: the results of another run."""

    measurement: Measurement
    told: str


class NotMeasured(InputError):
    """A merge that measures nothing itself lacks what these runs measure."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        """Name the runs."""
        kinds = ", ".join(dict.fromkeys(each.kind for each in measurements))
        super().__init__(f"this merge goes by what is not measured yet; start the runs that measure it ({kinds})")
        self.measurements = tuple(measurements)


Kept = Callable[[Sequence[Measurement]], list[Path | None]]  # the results of each; None where it is to be made here


def nothing_kept(measurements: Sequence[Measurement]) -> list[Path | None]:
    """Find no results: everything is measured by the merge itself."""
    return [None] * len(measurements)
