"""The diagonal of the empirical Fisher information of a language model, one decoder layer in memory at a time."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from nmerge_core.calibration.squares import Steps, Sums, log_likelihood
from nmerge_core.checkpoints import Checkpoint
from nmerge_core.checkpoints.writer import create_files, plan_layout
from nmerge_core.layerwise import Call, LayerwiseModel, Weights
from nmerge_core.machine import CPU, available_memory
from nmerge_core.progress import Progress

# Of the hidden states of the texts that are under way together, at all layers.
_STATES_BYTES = 2 << 30
# Of a whole model's weights, sums and gradients together, beside which a text's states have room: those of 0.5 B.
_WHOLE_BYTES = 6 << 30


def fisher(
    checkpoint: Checkpoint, texts: Sequence[Tensor], folder: Path, device: str, stage: str, progress: Progress
) -> list[str]:
    """Write F = 1/N Σ_s (∂ log p(s; θ) / ∂θ)², log p(s; θ) = Σ_t log p(s_t | s_<t; θ), for each tensor of a model.

    The gradients are those of single texts, on the texts' own tokens: the empirical Fisher information, where Matena
    and Raffel (NeurIPS 2022) take the expectation over the model's own predictions, a sum over the vocabulary at
    each token. A tied tensor has one gradient, that of all its uses. All is computed in float32, texts added in
    order. In memory: the model three times, where that is 6 GB at most and half of what is free. Else a layer or what
    lies outside the layers, three times, and 2 GB of the texts' hidden states; where these need more, the texts go
    through the layers in several groups. Each layer then runs twice on a text: no bit of the result changes, the time
    grows by a third.

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
    if _has_room(checkpoint, model.device):
        steps = Steps(progress, stage, len(texts) * (len(layers) + 1))
        _add_whole(model, texts, Sums(checkpoint, layout.tensors, model.device, len(texts)), steps)
        return [file.name for file in layout.headers]
    steps = Steps(progress, stage, len(texts) * (2 * len(layers) + 2))
    groups = list(_groups(texts, _STATES_BYTES // (4 * checkpoint.architecture.d_model * (len(layers) + 1))))
    for group in groups:
        divisor = len(texts) if group is groups[-1] else 1
        pass_ = _Pass(model, group, Sums(checkpoint, layout.tensors, model.device, divisor), steps)
        pass_.forward()
        for layer in reversed(layers):
            pass_.backward(layer)
        pass_.outside()
    return [file.name for file in layout.headers]


def _has_room(checkpoint: Checkpoint, device: str) -> bool:
    """Whether a model's weights, sums and gradients in float32 have room together."""
    free = available_memory() if device == CPU else torch.cuda.mem_get_info(device)[0]
    return 3 * 4 * checkpoint.parameters <= min(_WHOLE_BYTES, free // 2)


def _add_whole(model: LayerwiseModel, texts: Sequence[Tensor], sums: Sums, steps: Steps) -> None:
    """Add the squared gradients of text after text, with all weights and sums in memory."""
    parts = (*reversed(range(len(model.layers))), None)  # backwards, as a gradient that is not finite spreads
    weights, totals = ({part: model.weights(part, read) for part in parts} for read in (None, sums.read))
    for part in parts:
        for name, weight in weights[part].items():
            weight.requires_grad_().register_post_accumulate_grad_hook(partial(_add_square, totals[part][name]))
    outer = weights[None]
    for tokens in (text[None] for text in texts):  # (1, T)
        with torch.no_grad():
            calls = model.outside(outer, tokens).calls
        states = model.outside(outer, tokens).entering  # (1, T, d_model)
        for layer, call in enumerate(calls):
            states = model.run(layer, weights[layer], states, call)
            steps()
        log_likelihood(model.outside(outer, tokens, states, head=True).output, tokens).backward()
        steps()
    for part in parts:
        sums.write(model, part, totals[part])


def _add_square(total: Tensor, weight: Tensor) -> None:
    """Add the square of the weight's gradient, and drop this."""
    if weight.grad is not None:
        total.addcmul_(weight.grad, weight.grad)
        weight.grad = None


def _groups(texts: Sequence[Tensor], tokens: int) -> Iterator[list[Tensor]]:
    """Part texts, in order, into groups of at most so many tokens; a longer text is a group."""
    group: list[Tensor] = []
    for text in texts:
        if group and sum(map(len, group)) + len(text) > tokens:
            yield group
            group = []
        group.append(text)
    yield group


class _Pass:
    """One group of texts on its way through the layers and back."""

    def __init__(self, model: LayerwiseModel, texts: Sequence[Tensor], sums: Sums, steps: Steps):
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
            self._gradients += torch.autograd.grad(log_likelihood(logits, tokens), last)
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
        self._sums.write(self._model, layer, totals)

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
            value = log_likelihood(outside.output, tokens) + (outside.entering * gradient).sum()
            _add_squares(
                totals,
                torch.autograd.grad(value, list(outer.values()), allow_unused=True, materialize_grads=True),
            )
            self._steps()
        self._sums.write(self._model, None, totals)


def _add_squares(totals: Weights, gradients: Sequence[Tensor]) -> None:
    for total, gradient in zip(totals.values(), gradients, strict=True):
        total.addcmul_(gradient, gradient)
