"""Which neurons a knock-out switches off or keeps: shares of a group of them, and as many random ones."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RANDOM, INTACT = "random", "intact"  # groups beside a category
Neurons = dict[int, NDArray[np.int64]]
"""Neuron indices by layer, in order."""


@dataclass(frozen=True)
class Draw:
    """Some neurons of a group: what share of the category's number they are, and by which seed they were drawn."""

    group: str
    proportion: float
    seed: int
    neurons: Neurons

    @property
    def size(self) -> int:
        """The number of neurons."""
        return sum(len(indices) for indices in self.neurons.values())


def draws(
    group: str, pool: Neurons, sizes: Mapping[int, int], proportions: Sequence[float], seeds: Sequence[int]
) -> Iterator[Draw]:
    """Yield round(p · size) neurons of each layer for each seed and share p, from a seeded shuffle of a pool.

    A larger share contains the smaller ones of its seed. The same neurons come once for a share, as of a category that
    is drawn from itself whole.

    Args:
        group: the group's name, `RANDOM` for a control, which is shuffled by itself.
        pool: the neurons that are drawn from.
        sizes: the number of the category's neurons in each layer.
        proportions: shares of these.
        seeds: one a repeat.
    """
    seen = set[tuple[float, str]]()
    for seed in seeds:
        shuffled = {
            layer: np.random.default_rng((seed, layer, int(group == RANDOM))).permutation(indices)
            for layer, indices in pool.items()
        }
        for proportion in proportions:
            chosen = {layer: np.sort(shuffled[layer][: round(proportion * size)]) for layer, size in sizes.items()}
            if (key := (proportion, key_of(chosen))) not in seen:
                seen.add(key)
                yield Draw(group, proportion, seed, chosen)


def plan(
    members: Neurons, widths: Mapping[int, int], category: str, proportions: Sequence[float], seeds: Sequence[int]
) -> Iterator[Draw]:
    """Yield the draws of a knock-out curve: shares of the category, then as many of all neurons of its layers.

    Args:
        members: the category's neurons by layer.
        widths: the number of neurons of each layer, from all of which the control is drawn.
        category: its name, which becomes the group's.
        proportions: shares of the category's neurons.
        seeds: one a repeat.
    """
    sizes = {layer: len(indices) for layer, indices in members.items()}
    for group, pool in ((category, members), (RANDOM, everyone({layer: widths[layer] for layer in members}))):
        yield from draws(group, pool, sizes, proportions, seeds)


def everyone(widths: Mapping[int, int]) -> Neurons:
    """Return all neurons of layers that have so many."""
    return {layer: np.arange(width) for layer, width in widths.items()}


def others(all_of: Neurons, kept: Neurons) -> Neurons:
    """Return all neurons but those that are kept."""
    return {layer: np.setdiff1d(own, kept.get(layer, ()), assume_unique=True) for layer, own in all_of.items()}


def key_of(neurons: Neurons) -> str:
    """Return what tells sets of neurons apart."""
    content = [(layer, own.tolist()) for layer, own in sorted(neurons.items()) if len(own)]
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]
