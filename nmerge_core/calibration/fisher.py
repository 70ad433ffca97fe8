"""The diagonal of the empirical Fisher information of a language model, one decoder layer in memory at a time."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nmerge_core.architecture import Matrix
from nmerge_core.checkpoints import Checkpoint, TensorInfo
from nmerge_core.checkpoints.raw_bits import bits_of
from nmerge_core.checkpoints.rows import read_rows
from nmerge_core.checkpoints.writer import create_files, plan_layout, write_matrix
from nmerge_core.errors import InputError
from nmerge_core.layerwise import Call, LayerwiseModel, Weights
from nmerge_core.progress import Progress

# Of the hidden states of the texts that are under way together, at all layers.
_STATES_BYTES = 2 << 30


def fisher(
    checkpoint: Checkpoint, texts: Sequence[Tensor], folder: Path, device: str, stage: str, progress: Progress
) -> list[str]:
    """Write F = 1/N Σ_s (∂ log p(s; θ) / ∂θ)², log p(s; θ) = Σ_t log p(s_t | s_<t; θ), for each tensor of a model.

    The gradients are those of single texts, on the texts' own tokens: the empirical Fisher information, where Matena
    and Raffel (NeurIPS 2022) take the expectation over the model's own predictions, a sum over the vocabulary at
    each token. A tied tensor has one gradient, that of all its uses. All is computed in float32, texts added in
    order. In memory: a layer or what lies outside the layers, three times, and 2 GB of the texts' hidden states; where
    these need more, the texts go through the layers in several groups, which changes no bit of the result.

    Args:
        checkpoint: the model.
        texts: the tokens of each, (T,) int64 with T ≥ 2.
        folder: where to write safetensors files; it exists.
        device: auto, cpu, cuda, …
        stage: what progress is told of.
        progress: told after each text at each layer, and asked to stop within.

    Returns:
        The names of the files.

    Raises:
        InputError: the model cannot be run, or a gradient is not finite.
    """
    model = LayerwiseModel(checkpoint, device)
    layers = range(len(model.layers))
    inside = [name for part in (None, *layers) for name in model.names(part)]
    names = list(dict.fromkeys((*inside, *checkpoint.tensors)))  # what does not run on texts has no information: 0
    layout = plan_layout(folder, [checkpoint.info(name) for name in names], "F32")
    create_files(layout)
    steps = _Steps(progress, stage, len(texts) * (2 * len(layers) + 2))
    groups = list(_groups(texts, _STATES_BYTES // (4 * checkpoint.architecture.d_model * (len(layers) + 1))))
    for group in groups:
        divisor = len(texts) if group is groups[-1] else 1
        pass_ = _Pass(model, group, _Sums(checkpoint, layout.tensors, model.device, divisor), steps)
        pass_.forward()
        for layer in reversed(layers):
            pass_.backward(layer)
        pass_.outside()
    return [file.name for file in layout.headers]


def _groups(texts: Sequence[Tensor], tokens: int) -> Iterator[list[Tensor]]:
    """Part texts, in order, into groups of at most so many tokens; a longer text is a group."""
    group: list[Tensor] = []
    for text in texts:
        if group and sum(map(len, group)) + len(text) > tokens:
            yield group
            group = []
        group.append(text)
    yield group


class _Steps:
    """Counts texts at layers for a report of progress."""

    def __init__(self, progress: Progress, stage: str, total: int):
        self._progress, self._stage, self._total, self._done = progress, stage, total, 0
        progress(stage, 0, total, "steps")

    def __call__(self) -> None:
        self._done += 1
        self._progress(self._stage, self._done, self._total, "steps")


class _Sums:
    """The sums of squares so far, kept in the files that will hold the result."""

    def __init__(self, model: Checkpoint, tensors: Mapping[str, TensorInfo], device: str, divisor: int):
        self._model, self._tensors, self._device, self._divisor = model, tensors, device, divisor

    def read(self, name: str) -> Tensor:
        return read_rows(self._tensors[name]).to(self._device)

    def write(self, name: str, values: Tensor) -> None:
        if not torch.isfinite(values).all():
            raise InputError(
                f"{self._model.reference}, tensor {name}: expected finite gradients of the texts' log-likelihood, "
                "found NaN or infinite ones; check the model's weights"
            )
        write_matrix(self._tensors[name], Matrix(values.numel(), 1), 0, bits_of(values / self._divisor))


class _Pass:
    """One group of texts on its way through the layers and back."""

    def __init__(self, model: LayerwiseModel, texts: Sequence[Tensor], sums: _Sums, steps: _Steps):
        self._model, self._sums, self._steps = model, sums, steps
        self._tokens = [text[None] for text in texts]  # (1, T) each
        self._calls: list[list[Call]] = []  # of each text, for each layer
        self._entering: list[list[Tensor]] = []  # of each layer, for each text, (1, T, d_model)
        self._leaving: list[Tensor] = []  # the last layer, of each text, (1, T, d_model)
        self._gradients: list[Tensor] = []  # of each text's log-likelihood by its states, (1, T, d_model) each

    def forward(self) -> None:
        """Keep the states at each layer, and find the gradient of the log-likelihood by those that leave the last."""
        outer = self._model.weights(None)
        with torch.no_grad():
            outsides = [self._model.outside(outer, tokens) for tokens in self._tokens]
            self._calls = [outside.calls for outside in outsides]
            self._leaving = [outside.entering for outside in outsides]
            for layer in range(len(self._model.layers)):
                weights = self._model.weights(layer)
                self._entering.append(self._leaving)
                self._leaving = []
                for states, calls in zip(self._entering[-1], self._calls, strict=True):
                    self._leaving.append(self._model.run(layer, weights, states, calls[layer]))
                    self._steps()
        for tokens, states in zip(self._tokens, self._leaving, strict=True):
            last = states.detach().requires_grad_()
            logits = self._model.outside(outer, tokens, last, head=True).output  # (1, T, vocabulary)
            self._gradients += torch.autograd.grad(_log_likelihood(logits, tokens), last)
            self._steps()

    def backward(self, layer: int) -> None:
        """Add one layer's squared gradients, and take the gradients by the states to before this layer."""
        weights = self._model.weights(layer)
        totals = self._model.weights(layer, self._sums.read)
        for weight in weights.values():
            weight.requires_grad_()
        for text, (states, calls) in enumerate(zip(self._entering.pop(), self._calls, strict=True)):
            before = states.detach().requires_grad_()
            after = self._model.run(layer, weights, before, calls[layer])
            found = torch.autograd.grad(
                after, [before, *weights.values()], self._gradients[text], allow_unused=True, materialize_grads=True
            )
            self._gradients[text] = found[0]
            _add_squares(totals, found[1:])
            self._steps()
        self._write(layer, totals)

    def outside(self) -> None:
        """Add the squared gradients of what lies outside the layers.

        The embedding feeds the first layer, and a tied one the head as well: the gradient of log p + ⟨states entering
        layer 0, gradient by them⟩ at fixed states leaving the last layer is the sum of both.
        """
        outer = self._model.weights(None)
        totals = self._model.weights(None, self._sums.read)
        for weight in outer.values():
            weight.requires_grad_()
        for tokens, last, gradient in zip(self._tokens, self._leaving, self._gradients, strict=True):
            outside = self._model.outside(outer, tokens, last, head=True)
            value = _log_likelihood(outside.output, tokens) + (outside.entering * gradient).sum()
            _add_squares(
                totals,
                torch.autograd.grad(value, list(outer.values()), allow_unused=True, materialize_grads=True),
            )
            self._steps()
        self._write(None, totals)

    def _write(self, layer: int | None, totals: Weights) -> None:
        for name, total in self._model.as_stored(layer, totals).items():
            self._sums.write(name, total)


def _add_squares(totals: Weights, gradients: Sequence[Tensor]) -> None:
    for total, gradient in zip(totals.values(), gradients, strict=True):
        total.addcmul_(gradient, gradient)


def _log_likelihood(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return Σ_t log p(s_t | s_<t) of one text from its logits (1, T, vocabulary)."""
    return -torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:].to(logits.device), reduction="sum")
