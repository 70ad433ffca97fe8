"""Learning coefficients by gradient descent through a whole candidate, whose changes are streamed from disk."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nmerge_core.corpus.text_samples import Batch
from nmerge_core.merging.compute.primitives import weighted_sum
from nmerge_core.merging.compute.stream import Stream
from nmerge_core.merging.plan.candidate import Candidate, as_matrix
from nmerge_core.merging.plan.trail import Trail

_DECIMALS = 4  # of the coefficients that are kept: numbers that a reader can copy


class Entropy:
    """The entropy of a merge's predictions as a differentiable function of its coefficients.

    The candidate's weights are θ0 + Σ_t λ_gt τ_t, g the group of the tensor. ∂L/∂λ_gt is Σ ⟨∂L/∂θ, τ_t⟩ over the
    group's tensors: as backward comes to a tensor its τ_t are read again, and its gradient is dropped. So one model in
    float32, the activations of a batch and the gradient of a tensor are held (on the CPU for one batch per core), and
    never a model-sized gradient or task vector.
    """

    def __init__(self, candidate: Candidate, groups: Mapping[str, int], batches: Sequence[Batch]) -> None:
        """Take over a float32 candidate; `groups` gives the row of the coefficients of every tensor by name."""
        self._candidate, self._groups, self._batches = candidate, groups, batches
        self._places = _take_parameters(candidate)
        self._tokens = Counter[str]()
        for batch in batches:
            self._tokens[batch.category] += int(batch.real.sum())

    def gradient(self, coefficients: Tensor, tick: Callable[[], None]) -> tuple[float, Tensor]:
        """Return Σ over categories of the mean entropy of a token in nats, and its gradient (groups, T) float64."""
        rows = coefficients.tolist()
        self._candidate.fill(lambda block: weighted_sum(block.deltas, rows[self._groups[block.name]]), tick)
        leaf = coefficients.clone().requires_grad_()  # (groups, T)
        for name, weight in self._candidate.weights.items():
            merged = _Merged.apply(leaf[self._groups[name]], weight, self._candidate.stream, name)
            for module, attribute in self._places[name]:
                setattr(module, attribute, merged)

        def work(batch: Batch) -> tuple[float, Tensor]:
            entropies = entropy(self._candidate.logits(batch)[batch.real.to(self._candidate.stream.device)])  # (N,)
            loss = entropies.sum() / self._tokens[batch.category]
            return loss.item(), torch.autograd.grad(loss, leaf, retain_graph=True)[0]

        total, gradient = 0.0, torch.zeros_like(coefficients)
        for loss, own in self._candidate.each(work, self._batches):
            tick()
            total += loss
            gradient += own
        return total, gradient


def learn(
    entropy: Entropy, start: Tensor, *, steps: int, rate: float, trail: Trail, progress: Callable[[int], None]
) -> tuple[list[list[float]], list[float]]:
    """Minimise the entropy by Adam from `start` (groups, T) float64; the coefficients stay in [0, 1].

    Steps that the trail has are taken without reading a text.

    Returns:
        The coefficients after the last step, and the entropy before each.
    """
    coefficients = start.clone()
    adam = torch.optim.Adam([coefficients], lr=rate)
    history = []
    for step in range(steps):

        def tick(step: int = step) -> None:
            progress(step)

        def measure() -> list[float]:
            loss, gradient = entropy.gradient(coefficients, tick)
            return [loss, *gradient.flatten().tolist()]

        tick()
        loss, *gradient = trail.measured(coefficients.flatten().tolist(), measure)
        coefficients.grad = torch.tensor(gradient, dtype=torch.float64).view_as(coefficients)
        adam.step()
        coefficients.clamp_(0, 1)
        history.append(loss)
    progress(steps)
    return [[round(value, _DECIMALS) for value in row] for row in coefficients.tolist()], history


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of softmax(logits), (N, vocabulary) → (N,) float32, in nats."""
    logs = logits.float().log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)


class _Merged(torch.autograd.Function):
    """A weight as a function of its T coefficients; backward reads what the weight was merged from."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, weight: Tensor, stream: Stream, name: str) -> Tensor:
        ctx.stream, ctx.name = stream, name
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        products = torch.zeros(len(ctx.stream.models), dtype=torch.float64)
        whole = as_matrix(gradient.contiguous(), ctx.stream.donor.architecture.matrix(ctx.name))
        for rows in ctx.stream.rows(ctx.name):
            block = ctx.stream.load(rows)
            own = whole[rows.start : rows.stop].reshape(block.base.shape)
            products += (block.deltas * own).flatten(1).sum(1, dtype=torch.float64).cpu()  # ⟨∂L/∂θ, τ_t⟩, (T,)
        return products, None, None, None


def _take_parameters(candidate: Candidate) -> dict[str, list[tuple[torch.nn.Module, str]]]:
    """Take the parameters out of the model's modules; return, by tensor, where each is to be put (twice if tied)."""
    # Tied parameters share their memory, and so does a weight with the parameter that it is.
    names = {weight.data_ptr(): name for name, weight in candidate.weights.items()}
    places: dict[str, list[tuple[torch.nn.Module, str]]] = {name: [] for name in candidate.weights}
    for module in candidate.language_model.model.modules():
        for attribute, parameter in list(module._parameters.items()):
            if parameter is not None:
                places[names[parameter.data_ptr()]].append((module, attribute))
                del module._parameters[attribute]
    return places
