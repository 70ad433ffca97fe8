"""A whole sweep as a parameter: of a run, its content is that of everything that any trial reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nmerge_core.inputs import Places
from nmerge_core.parameters import Document
from nmerge_core.search.plan import load_sweep


@dataclass(frozen=True, kw_only=True)
class SweepParameter(Document):
    """A sweep: a YAML file, YAML text, or what stands in it."""

    kind: ClassVar[str] = "sweep"

    def content(self, value: Any, places: Places) -> tuple[Any, Mapping[str, str]]:
        """Return what stands in the sweep, models and tasks named in full, and the fingerprint of all that it reads."""
        sweep = load_sweep(value)
        return sweep.content, sweep.inputs
