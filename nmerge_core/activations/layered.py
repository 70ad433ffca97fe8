"""Exemplars go through a model that is larger than the memory, the weights of one layer there at a time."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nmerge_core.checkpoints import Checkpoint, label, open_checkpoint
from nmerge_core.checkpoints.rows import torch_dtype
from nmerge_core.checkpoints.tokenizer import load_tokenizer
from nmerge_core.errors import InputError
from nmerge_core.kinds import kind_of
from nmerge_core.layerwise import LayerwiseModel, Outside, Weights
from nmerge_core.loading import LanguageModel, own_device
from nmerge_core.number_format import AUTO, choose_format

Run = Callable[[Tensor, Tensor, Sequence[int]], None]
"""Takes tokens of some exemplars and which of them are real, (B, T) both, and the exemplars' ids."""


@dataclass(frozen=True, kw_only=True)
class LayeredModel(LanguageModel):
    """A language model whose weights stay on the disk: `model` has none, `layerwise` runs it by those it reads."""

    layerwise: LayerwiseModel
    checkpoint: Checkpoint

    def read(self, name: str) -> Tensor:
        """Return a stored tensor on the device, as `load_model` has it: with an adapter's change, rounded as stored."""
        values = self.checkpoint.read(name)
        if self.checkpoint.adapter and name in self.checkpoint.adapter.changed:
            values = values.to(torch_dtype(self.checkpoint.info(name).dtype))
        return values.to(self.device)


def open_layered(reference: str, device: str = "auto", run_dtype: str = AUTO) -> LayeredModel:
    """Open a model that is to run layer by layer; parameters and number format are those of `loading.load_model`.

    Raises:
        InputError: the model or its tokenizer cannot be read, or it cannot be run layer by layer.
    """
    checkpoint = open_checkpoint(reference)
    chosen = choose_format(checkpoint, run_dtype, device)
    if chosen.remark:
        logging.warning(chosen.remark)
    layerwise = LayerwiseModel(checkpoint, own_device(device), getattr(torch, chosen.name))
    return LayeredModel(
        model=layerwise.model,
        tokenizer=load_tokenizer(checkpoint),
        architecture=checkpoint.architecture,
        label=label(reference),
        device=torch.device(layerwise.device),
        kind=kind_of(checkpoint),
        layerwise=layerwise,
        checkpoint=checkpoint,
    )


class Walk:
    """Exemplars on their way through the layers of a model."""

    def __init__(self, model: LayeredModel, lengths: Mapping[int, int], states: Sequence[Tensor]):
        """Begin, or go on, with states of exemplars that are there.

        Args:
            model: the model.
            lengths: the tokens of each exemplar, by its id, in the order in which `states` has them.
            states: the hidden states (tokens, d_model) that enter layers of even number, and those that enter the
                others: each layer reads one and writes the other, so that a layer may be begun again.

        Raises:
            InputError: the model's hidden states are no vector a token.
        """
        self._model, self._states, self._weights = model, states, Weights()
        self._rows, start = dict[int, slice](), 0
        for id, length in lengths.items():
            self._rows[id] = slice(start, start := start + length)
        self._outer = model.layerwise.weights(None, model.read, head=False)
        found = self._outside(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1)).entering.shape
        if found != (1, 1, states[0].shape[1]):
            raise InputError(
                f"{model.label}: expected a hidden state of {states[0].shape[1]} numbers for a token, found "
                f"{list(found)}; it cannot be run layer by layer"
            )

    @contextmanager
    def layer(self, number: int) -> Iterator[Run]:
        """Read a layer's weights, which are there while the block runs; give what takes exemplars through it."""
        self._weights = self._model.layerwise.weights(number, self._model.read)
        try:
            yield partial(self._run, number)
        finally:
            self._weights = {}

    @torch.inference_mode()
    def _run(self, number: int, tokens: Tensor, real: Tensor, ids: Sequence[int]) -> None:
        outside, rows = self._outside(tokens, real), [self._rows[id] for id in ids]
        before, after = (self._states[(number + side) % 2] for side in (0, 1))  # (tokens, d_model)
        states = outside.entering  # (B, T, d_model)
        if number:
            states = torch.nn.utils.rnn.pad_sequence([before[own] for own in rows], batch_first=True).to(states.device)
        left = self._model.layerwise.run(number, self._weights, states, outside.calls[number]).cpu()
        for own, each in zip(rows, left, strict=True):
            after[own] = each[: own.stop - own.start]

    @torch.inference_mode()
    def _outside(self, tokens: Tensor, real: Tensor) -> Outside:
        return self._model.layerwise.outside(self._outer, tokens, real=real)
