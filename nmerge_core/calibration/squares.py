"""Sums of squared gradients, in the files that will hold them, and the function whose gradients they are."""

from collections.abc import Mapping

import torch
from torch import Tensor

from nmerge_core.architecture import Matrix
from nmerge_core.checkpoints import Checkpoint, TensorInfo
from nmerge_core.checkpoints.raw_bits import bits_of
from nmerge_core.checkpoints.rows import read_rows
from nmerge_core.checkpoints.writer import write_matrix
from nmerge_core.errors import InputError
from nmerge_core.layerwise import LayerwiseModel, Weights
from nmerge_core.progress import Progress


class Steps:
    """Counts texts at layers for a report of progress."""

    def __init__(self, progress: Progress, stage: str, total: int):
        """Begin with none of so many."""
        self._progress, self._stage, self._total, self._done = progress, stage, total, 0
        progress(stage, 0, total, "steps")

    def __call__(self) -> None:
        """Count one."""
        self._done += 1
        self._progress(self._stage, self._done, self._total, "steps")


class Sums:
    """The sums of squares so far, kept in the files that will hold the result."""

    def __init__(self, model: Checkpoint, tensors: Mapping[str, TensorInfo], device: str, divisor: int):
        """Keep the sums of a model in `tensors`; what is written is divided."""
        self._model, self._tensors, self._device, self._divisor = model, tensors, device, divisor

    def read(self, name: str) -> Tensor:
        """Return what is summed of a tensor so far."""
        return read_rows(self._tensors[name]).to(self._device)

    def write(self, model: LayerwiseModel, layer: int | None, totals: Weights) -> None:
        """Write what is summed of a layer, or of what lies outside; raises InputError where it is not finite."""
        for name, total in model.as_stored(layer, totals).items():
            self._write(name, total)

    def _write(self, name: str, values: Tensor) -> None:
        if not torch.isfinite(values).all():
            raise InputError(
                f"{self._model.reference}, tensor {name}: expected finite gradients of the texts' log-likelihood, "
                "found NaN or infinite ones; check the model's weights"
            )
        write_matrix(self._tensors[name], Matrix(values.numel(), 1), 0, bits_of(values / self._divisor))


def log_likelihood(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return Σ_t log p(s_t | s_<t) of one text from its logits (1, T, vocabulary)."""
    return -torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:].to(logits.device), reduction="sum")
