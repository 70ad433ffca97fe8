"""How far submodules of fine-tunes are from being linear in their task vector (NeuronMerge §2.4, App. B)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from nmerge_core.checkpoints import labels, open_checkpoint
from nmerge_core.corpus.text_samples import draw
from nmerge_core.nonlinearity.decoder import Decoder
from nmerge_core.nonlinearity.groups import read_groups
from nmerge_core.nonlinearity.submodules import Inputs, Submodule
from nmerge_core.progress import Progress, silent

ALPHAS = tuple(step / 10 for step in range(1, 10))  # App. B


@torch.inference_mode()
def measure(
    base: str,
    models: Sequence[str],
    corpus: str,
    *,
    neurons: str | None = None,
    samples: int = 30,
    alphas: Sequence[float] = ALPHAS,
    max_length: int = 512,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = silent,
) -> pd.DataFrame:
    """Measure the non-linearity of each layer's attention, MLP and neuron groups, on `samples` texts of every category.

    At α it is the mean over tokens of ‖f(x; θ0+ατ) − f(x; θ0) − αΔf(x)‖ / ‖αΔf(x)‖ with Δf(x) = f(x; θ0+τ) − f(x; θ0)
    and x the base model's own hidden states (see `submodules` for f and x). Tokens where Δf = 0 are left out; where a
    fine-tune does not change a submodule at all the value is NaN. All is computed in float32, so a task vector that
    changes f by a relative ε shows a floor of about 1e-7/(αε). One layer of every model, and a copy of its grouped
    neurons, is in memory at a time.

    Args:
        base: the base model θ0, a folder or Hub id.
        models: its fine-tunes.
        corpus: a corpus; every category of it is used.
        neurons: a classification folder of the base model; adds a row per category's neurons in each layer.
        samples: texts drawn per category (App. C.3: 30).
        alphas: the points in (0, 1) to measure at; the papers' figures average over 0.1, …, 0.9.
        max_length: tokens a text is cut to.
        seed: of the draw of texts.
        device: auto, cpu, cuda, …
        progress: told after every batch, and asked to stop within.

    Returns:
        Columns model, layer, submodule (attention, mlp, group), group (a category or ""), alpha, value.

    Raises:
        InputError: a model or the corpus cannot be read, they do not fit together, `neurons` is of another model, or a
            weight is NaN or infinite.
    """
    origin, checkpoints = open_checkpoint(base), [open_checkpoint(model) for model in models]
    groups = read_groups(neurons, origin) if neurons else {}
    batches = draw(corpus, None, origin, samples=samples, max_length=max_length, seed=seed)
    decoder = Decoder(origin, checkpoints, batches, device)
    tables = []
    stage, total = "non-linearity", len(origin.architecture.layers) * len(batches)
    for mlp in origin.architecture.layers:
        submodules = decoder.submodules(mlp, groups.get(mlp.layer, {}))
        sums = np.zeros((len(submodules), len(models), len(alphas)))
        tokens = np.zeros((len(submodules), len(models), 1))
        for step, inputs in enumerate(decoder.steps(submodules)):
            done = mlp.layer * len(batches) + step
            for row, submodule in enumerate(submodules):
                progress(stage, done, total, "batches")
                added, moved = _sums(submodule, inputs, alphas)
                sums[row] += added
                tokens[row, :, 0] += moved
        with np.errstate(invalid="ignore"):  # 0 / 0: a submodule that does not change has no non-linearity
            tables.append(_table(submodules, sums / tokens, labels(models), alphas))
    progress(stage, total, total, "batches")
    return pd.concat(tables, ignore_index=True)


def _sums(submodule: Submodule, inputs: Inputs, alphas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the (models, alphas) sums of the ratio over tokens with Δf ≠ 0, and the (models,) number of these."""
    sums = np.zeros((len(submodule.models), len(alphas)))
    moved = np.zeros(len(submodule.models))
    before = submodule.output(submodule.base, inputs)  # (n, d_model), f(x; θ0)
    for model, weights in enumerate(submodule.models):
        delta = submodule.output(weights, inputs) - before  # (n, d_model), Δf(x)
        norm = delta.norm(dim=-1)  # (n,)
        kept = norm > 0
        moved[model] = int(kept.sum())
        if not moved[model]:
            continue
        for column, alpha in enumerate(alphas):
            between = {name: torch.lerp(own, weights[name], alpha) for name, own in submodule.base.items()}
            error = (submodule.output(between, inputs) - before).sub_(delta, alpha=alpha).norm(dim=-1)  # (n,)
            sums[model, column] = (error[kept] / (alpha * norm[kept])).double().sum().item()
    return sums, moved


def _table(
    submodules: Sequence[Submodule], values: np.ndarray, models: Sequence[str], alphas: Sequence[float]
) -> pd.DataFrame:
    """Turn (submodules, models, alphas) values of one layer into rows."""
    return pd.DataFrame(
        [
            (model, submodule.layer, submodule.kind, submodule.group, alpha, values[row, index, column])
            for index, model in enumerate(models)
            for row, submodule in enumerate(submodules)
            for column, alpha in enumerate(alphas)
        ],
        columns=["model", "layer", "submodule", "group", "alpha", "value"],
    )
