"""Whether neurons grouped by function are more linear than those grouped by chance (NeuronMerge §2.4 and App. B)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

from nmerge_core.checkpoints import labels, open_checkpoint
from nmerge_core.corpus.text_samples import draw
from nmerge_core.nonlinearity.by_chance_table import Values, table
from nmerge_core.nonlinearity.decoder import Decoder
from nmerge_core.nonlinearity.groups import Neurons, read_groups
from nmerge_core.nonlinearity.submodules import Inputs, Submodule, Weights
from nmerge_core.progress import Progress, silent

TOKENS = 64  # of a text at most: texts differ more than the tokens of one
_ALL = "all neurons"

Grouping = Mapping[str, NDArray[np.int64]]  # name of a group → its neurons


@torch.inference_mode()
def by_chance(
    base: str,
    models: Sequence[str],
    corpus: str,
    neurons: str,
    *,
    draws: int = 20,
    samples: int = 30,
    max_length: int = 512,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = silent,
) -> pd.DataFrame:
    """Compare the non-linearity of neuron groups with that of random groups of the same sizes, and of all neurons.

    For a group g and half the task vector it is ‖f(θ0 + τ/2) − f(θ0) − Δf/2‖ / ‖Δf/2‖ with f(z) = Σ_{j∈g} φ_j down_j,
    the mean over at most `TOKENS` tokens of each text, evenly spaced, and then over texts. Half is enough: what
    Theorem 1 has, C_2 α², is α(1 − α) ‖C_2‖ / (α ‖Δf‖) there, whose mean over α = 0.1, …, 0.9 is that at α = 1/2.

    With δ_j = φ_j(θ0 + τ) − φ_j(θ0) and D = τ of down, the error is exactly the sum of the theorem's quadratic term,
    −¼ Σ_j δ_j D_j, and of what is left of φ's own bend, Σ_j (φ_j(θ0 + τ/2) − ½ φ_j(θ0) − ½ φ_j(θ0 + τ)) · (down_j +
    ½ D_j): of ReLU the neurons that change sign, of other activations and of gate times up their curvature too.

    Args:
        base: the base model θ0, a folder or Hub id.
        models: its fine-tunes.
        corpus: a corpus; every category of it is used.
        neurons: a classification folder of the base model.
        draws: random groupings of each layer's neurons, at least 2.
        samples: texts drawn per category.
        max_length: tokens a text is cut to.
        seed: of the draw of texts, and of the groupings.
        device: auto, cpu, cuda, …
        progress: told after every batch, and asked to stop within.

    Returns:
        See `by_chance_table.table`; layers whose neurons cannot be run apart from each other, as of routed experts, are
        left out, and without others it is empty.

    Raises:
        InputError: as `measure`.
    """
    origin, checkpoints = open_checkpoint(base), [open_checkpoint(model) for model in models]
    groups = read_groups(neurons, origin)
    if all(mlp.routed for mlp in origin.architecture.layers):
        return pd.DataFrame()
    batches = draw(corpus, None, origin, samples=samples, max_length=max_length, seed=seed)
    decoder = Decoder(origin, checkpoints, batches, device)
    found: dict[str, dict[int, Values]] = {label: {} for label in labels(models)}
    stage, total = "groups and chance", len(origin.architecture.layers) * len(batches)
    for mlp in origin.architecture.layers:
        parts = decoder.submodules(mlp, {} if mlp.routed else {_ALL: np.arange(mlp.d_ffn)})
        groupings = [groups[mlp.layer], *_shuffled(groups[mlp.layer], mlp.layer, draws, seed)]
        values: list[list[NDArray[np.float64]]] = [[] for _ in models]  # of each batch
        apart = isinstance(parts[-1].output, Neurons)
        for step, inputs in enumerate(decoder.steps(parts)):
            progress(stage, mlp.layer * len(batches) + step, total, "batches")
            if apart:
                texts, few = _thinned(inputs)
                for index, own in enumerate(values):
                    own.append(_means(_ratios(parts[-1], index, few, groupings), texts, len(inputs.real)))
        if apart:
            sizes = {name: len(own) for name, own in groups[mlp.layer].items()}
            for label, own in zip(found, values, strict=True):
                found[label][mlp.layer] = Values(sizes, np.concatenate(own, axis=-1))
    progress(stage, total, total, "batches")
    return table(found) if any(found.values()) else pd.DataFrame()


def _shuffled(groups: Grouping, layer: int, draws: int, seed: int) -> list[Grouping]:
    """Deal a layer's neurons anew to groups of the same sizes (the control of Table 4), `draws` times."""
    ends = np.cumsum([len(own) for own in groups.values()])[:-1]
    every = np.sort(np.concatenate(list(groups.values())))
    dealt = (np.random.default_rng([seed, draw, layer]).permutation(every) for draw in range(draws))
    return [dict(zip(groups, np.split(own, ends), strict=True)) for own in dealt]


def _thinned(inputs: Inputs) -> tuple[Tensor, Inputs]:
    """Keep at most `TOKENS` tokens of each text, evenly spaced; with the text of each, (n,)."""
    texts = inputs.real.nonzero()[:, 0]  # (tokens,), of what is `normed`
    place = inputs.real.cumsum(1)[inputs.real] - 1  # (tokens,), of each in its text
    lengths = inputs.real.sum(1)[texts]
    kept = lengths.clamp(max=TOKENS)
    first = place * kept // lengths > (place - 1) * kept // lengths  # in each of so many equal parts
    return texts[first], replace(inputs, normed=inputs.normed[first])


def _ratios(neurons: Submodule, model: int, inputs: Inputs, groupings: Sequence[Grouping]) -> Tensor:
    """Return ‖error‖, ‖quadratic term‖ and ‖bend‖ over ‖Δf/2‖, (3, groupings, groups + 1, n); NaN where Δf = 0.

    The last group is all neurons.
    """
    function, base, tuned = neurons.output, neurons.base, neurons.models[model]
    assert isinstance(function, Neurons)
    half: Weights = {name: torch.lerp(own, tuned[name], 0.5) for name, own in base.items()}
    before, after, between = (function.phi(weights, inputs) for weights in (base, tuned, half))  # (n, d_ffn)
    change, down = after - before, tuned["down"] - base["down"]
    bend = between - (before + after) / 2
    rows = []
    for grouping in groupings:
        sums = torch.zeros(3, *inputs.normed.shape[:1], base["down"].shape[0], device=inputs.normed.device)
        norms = []
        for own in map(torch.tensor, grouping.values()):
            at = own.to(inputs.normed.device)
            moved, column = change[:, at], down[:, at]
            quadratic = linear(moved, column).mul_(-0.25)  # (n, d_model)
            bent = linear(bend[:, at], half["down"][:, at])
            whole = linear(before[:, at], column) + linear(moved, tuned["down"][:, at])  # Δf
            parts = torch.stack([quadratic, bent, whole])
            norms.append(_norms(parts))
            sums += parts
        rows.append(torch.stack([*norms, _norms(sums)], dim=1))  # (3, groups + 1, n)
    return torch.stack(rows, dim=1)


def _norms(parts: Tensor) -> Tensor:
    """Return the norms of both parts' sum and of either part, over half that of Δf: (3, n)."""
    quadratic, bent, whole = parts
    lengths = torch.stack([quadratic + bent, quadratic, bent]).norm(dim=-1)
    changed = whole.norm(dim=-1) / 2
    return torch.where(changed > 0, lengths / changed, torch.nan)


def _means(ratios: Tensor, texts: Tensor, count: int) -> NDArray[np.float64]:
    """Return the mean over the tokens of each text, (3, groupings, groups + 1, texts); NaN where none has a ratio."""
    there = ratios.isfinite()
    sums, tokens = (
        torch.zeros(*ratios.shape[:-1], count, dtype=torch.float64, device=ratios.device).index_add_(
            -1, texts, own.double()
        )
        for own in (torch.where(there, ratios, 0.0), there)
    )
    return (sums / tokens).cpu().numpy()
