"""The layers that texts have passed on their way, kept as they come, so that a collection that was killed goes on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from nmerge_core.calibration.inputs import Walk
from nmerge_core.files.folders import save_tensors
from nmerge_core.files.kept_files import Damaged, read_object, reading, remove, write_json


class Passed:
    """In the folder that is being written, how many layers were passed and the states that left the last of them.

    The states before are there until the next ones are noted.
    """

    def __init__(self, folder: Path, walks: Sequence[Walk]) -> None:
        """Keep it of these walks."""
        self._noted, self._walks = folder / "passed.json", walks

    def take_up(self, metas: list[dict[str, Any]]) -> tuple[int, list[dict[str, Any]]]:
        """Give the walks the states that were noted; return the layers, and what was to be said of them in meta.json.

        Where nothing was noted, or it is damaged, these are 0 and `metas`.
        """
        try:
            noted = read_object(self._noted, {"layers": int, "metas": list})
            file = self._states(noted["layers"])
            with reading(file):
                states = load_file(file)
                found = [
                    [states[f"{index}.{batch}"].to(own.device) for batch, own in enumerate(walk.states)]
                    for index, walk in enumerate(self._walks)
                ]
        except Damaged:
            return 0, metas
        for walk, own in zip(self._walks, found, strict=True):
            walk.states = own
        return noted["layers"], noted["metas"]

    def note(self, layers: int, metas: Sequence[Mapping[str, Any]]) -> None:
        """Note that these layers were passed, and what meta.json is to say so far."""
        states = {
            f"{index}.{batch}": own.cpu().contiguous()
            for index, walk in enumerate(self._walks)
            for batch, own in enumerate(walk.states)
        }
        save_tensors(states, self._states(layers))
        write_json(self._noted, {"layers": layers, "metas": metas})
        remove(self._states(layers - 1))

    def forget(self) -> None:
        """Leave nothing of it."""
        for left in (self._noted, *self._noted.parent.glob(self._states("*").name)):
            remove(left)

    def _states(self, layers: int | str) -> Path:
        return self._noted.with_name(f"states-{layers}.safetensors")
