"""A whole sweep as a parameter: of a run, its content is that of everything that any trial reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nmerge_core.errors import InputError
from nmerge_core.inputs import Places
from nmerge_core.parameters import Parameter
from nmerge_core.search.plan import load_sweep


@dataclass(frozen=True, kw_only=True)
class SweepParameter(Parameter):
    """A sweep: a YAML file, or what stands in it."""

    kind: ClassVar[str] = "sweep"

    @property
    def expected(self) -> str:
        """The words."""
        return "a sweep: a YAML file or a mapping"

    def check(self, value: Any, where: str) -> Any:
        """Return the value; whether it is a sweep is told where it is read."""
        if not isinstance(value, str | Path | Mapping):
            raise InputError(f"{where}: expected {self.expected}, found {value!r}")
        return value

    def from_text(self, text: str) -> Path:
        """Read the path of a file."""
        return Path(text)

    def content(self, value: Any, places: Places) -> tuple[Any, Mapping[str, str]]:
        """Return what stands in the sweep, models and tasks named in full, and the fingerprint of all that it reads."""
        sweep = load_sweep(value)
        return sweep.content, sweep.inputs
