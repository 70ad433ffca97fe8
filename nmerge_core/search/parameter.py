"""A whole sweep as a parameter: of a run, its content is that of everything that any trial reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nmerge_core.inputs import Places
from nmerge_core.merging.run_formats import merged_format, run_formats
from nmerge_core.parameters.values import Document
from nmerge_core.search.reading import load_sweep


@dataclass(frozen=True, kw_only=True)
class SweepParameter(Document):
    """A sweep: a YAML file, YAML text, or what stands in it."""

    kind: ClassVar[str] = "sweep"

    def content(self, value: Any, places: Places) -> tuple[Any, Mapping[str, str]]:
        """Return what stands in the sweep, models and tasks named in full, and the fingerprint of all that it reads."""
        sweep = load_sweep(value)
        return sweep.content, sweep.inputs

    def formats(self, value: Any, device: str) -> Mapping[str, str]:
        """Return the formats that trials run in, and models that their recipes have run before the merge."""
        sweep, found = load_sweep(value), dict[str, set[str]]()
        for recipe in (sweep.recipe_at(point) for axis in sweep.axes for point in sweep.points_of(axis)):
            trial = {"trials run in": merged_format(recipe, sweep.run_dtype, device)}
            for name, chosen in {**run_formats(recipe, device), **trial}.items():
                found.setdefault(name, set()).add(chosen)
        return {name: ", ".join(sorted(chosen)) for name, chosen in found.items()}
