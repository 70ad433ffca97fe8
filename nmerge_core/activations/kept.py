"""Scores on the disk as they come: a collection that was killed goes on after what it has noted last."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nmerge_core.activations.statistics import LayerStatistics, save
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.writer import create_files, plan_file
from nmerge_core.files.kept_files import read_object, write_json

SCORES, POSITIONS, STATES = "scores.safetensors", "positions.safetensors", "states.safetensors"
NOTED = "collected.json"
_WORDS = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64"}
_WORDS |= {torch.int16: "I16", torch.int32: "I32"}
_PACE = 10.0  # seconds between notes, each of which waits for the disk


@dataclass(frozen=True)
class Room:
    """Tensors layer.<l> (exemplars, d_ffn) of one format in a file of a folder, mapped into memory.

    Attributes:
        file: the file.
        layers: the layers.
        shapes: the shape of each.
        dtype: the format of all.
    """

    file: Path
    layers: Sequence[int]
    shapes: Sequence[tuple[int, int]]
    dtype: torch.dtype

    def make(self) -> bool:
        """Take the space, unless that was done before; return whether it was."""
        layout = plan_file(
            self.file,
            [
                TensorInfo(f"layer.{layer}", _WORDS[self.dtype], shape, self.file, 0)
                for layer, shape in zip(self.layers, self.shapes, strict=True)
            ],
        )
        header, size = layout.headers[self.file], layout.sizes[self.file]
        if self.file.exists() and self.file.stat().st_size == size:
            with self.file.open("rb") as stream:
                if stream.read(len(header)) == header:
                    return True
        create_files(layout)
        return False

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors; what is written to them is written to the file."""
        words = np.dtype(f"i{self.dtype.itemsize}")
        place = self.file.stat().st_size - sum(rows * columns for rows, columns in self.shapes) * words.itemsize
        found = []
        for shape in self.shapes:
            mapped = np.memmap(self.file, words, "r+", place, shape)
            found.append(torch.from_numpy(mapped).view(self.dtype))
            place += mapped.nbytes
        return tuple(found)

    def flush(self) -> None:
        """Wait until the disk has what was written."""
        with self.file.open("r+b") as stream:
            os.fsync(stream.fileno())


class KeptScores:
    """What a collection has so far, in rooms of a folder, and how many of its steps, in their order, are done."""

    def __init__(self, folder: Path, rooms: Sequence[Room], beside: str = "") -> None:
        """Take up what is there of a collection of this shape, scores taken `beside` it from there, or begin anew."""
        self._file, self._rooms, self._beside = folder / NOTED, rooms, beside
        if not all([room.make() for room in rooms]):
            self._file.unlink(missing_ok=True)
        self.tensors = [room.tensors for room in rooms]
        self._noted = time.monotonic()

    def done(self, total: int) -> int:
        """Return how many of so many steps were noted as done."""
        found = read_object(self._file) if self._file.exists() else {}
        return int(found["done"]) if (found.get("of"), found.get("beside", "")) == (total, self._beside) else 0

    def tell(self, done: int, total: int, statistics: Mapping[int, LayerStatistics] | None, *, due: bool) -> None:
        """Note it, unless that was done a moment ago and is not `due`: what is noted the disk has, which takes time.

        Statistics that are ahead of a note know the exemplars that they have counted.
        """
        if not due and time.monotonic() - self._noted < _PACE:
            return
        for room in self._rooms:
            room.flush()
        if statistics:
            save(statistics, self._file.parent)
        write_json(self._file, {"done": done, "of": total, "beside": self._beside})
        self._noted = time.monotonic()


def forget(folder: Path) -> None:
    """Remove what only a collection that goes on needs; the scores stay."""
    for name in (POSITIONS, STATES, NOTED):
        (folder / name).unlink(missing_ok=True)
