"""Merging coefficients of submodules in closed form: SubModule Linearity (Dai et al., ICLR 2025; NeuronMerge §2.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nmerge_core.checkpoints import labels, open_checkpoint
from nmerge_core.corpus.text_samples import draw
from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import read_object, reading, write_json
from nmerge_core.nonlinearity.decoder import Decoder
from nmerge_core.nonlinearity.submodules import Groups, Inputs, Submodule
from nmerge_core.progress import Progress, silent

_FILE = "coefficients.json"
_WHOLE = ("attention", "mlp")
# Of the smallest to the largest eigenvalue of A scaled to unit diagonal: below it, fine-tunes move f alike.
_SINGULAR = 1e-10


@dataclass(frozen=True)
class Coefficients:
    """The α of each model, in the order of `models`, per (layer, "attention" | "mlp" | name of a neuron group)."""

    models: tuple[str, ...]
    values: Mapping[tuple[int, str], tuple[float, ...]]
    warnings: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return a row per coefficient: model, layer, submodule (attention, mlp, group), group, coefficient."""
        return pd.DataFrame(
            [
                (model, layer, *((part, "") if part in _WHOLE else ("group", part)), value)
                for (layer, part), values in self.values.items()
                for model, value in zip(self.models, values, strict=True)
            ],
            columns=["model", "layer", "submodule", "group", "coefficient"],
        )

    def write(self, folder: Path) -> None:
        """Write them into a folder, to the last bit."""
        rows = [[layer, part, list(alphas)] for (layer, part), alphas in self.values.items()]
        write_json(folder / _FILE, {"models": list(self.models), "alphas": rows, "warnings": list(self.warnings)})


def read_coefficients(folder: Path) -> Coefficients:
    """Read what `Coefficients.write` wrote; raises Damaged where it is not as it was written."""
    content = read_object(folder / _FILE, {"models": list, "alphas": list, "warnings": list})
    with reading(folder / _FILE):
        values = {(layer, part): tuple(map(float, alphas)) for layer, part, alphas in content["alphas"]}
    return Coefficients(tuple(content["models"]), values, tuple(content["warnings"]))


@torch.inference_mode()
def solve(
    base: str,
    models: Sequence[str],
    corpus: str,
    categories: Sequence[str],
    *,
    groups: Groups | None = None,
    together: bool = False,
    samples: int = 30,
    max_length: int = 512,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = silent,
) -> Coefficients:
    """Solve the coefficients with which each submodule's merged change comes closest to each task's own change.

    α* = argmin Σ_t E_{x∈D_t} ‖Σ_i α_i Δf_i(x) − Δf_t(x)‖² is the solution of A α = b with
    A_ij = Σ_t E⟨Δf_i, Δf_j⟩ and b_i = Σ_t E⟨Δf_i, Δf_t⟩; E over D_t is the mean over the tokens of task t's samples, x
    are the base model's own hidden states and f as in `submodules`. A is accumulated in float64 from float32 changes.
    A fine-tune that does not change a submodule gets 0; where the others' changes are linearly dependent the
    coefficients are the least-norm ones and a warning says so.

    The code of Dai et al. was not published; this is the closed form that their abstract describes.

    Each neuron group is solved by itself, as NeuronMerge has it, or all groups of a layer `together`: Δf_t is then what
    task t changes in all of them, and the sum goes over the groups too, each with α of its own. So what one group gives
    of a task another need not, and a task counts more where its change is found. That is ours, in no paper.

    Args:
        base: the base model θ0, a folder or Hub id.
        models: its fine-tunes, θ1 … θT.
        corpus: the corpus the samples are drawn from.
        categories: the category of each fine-tune, in the order of `models`; its texts are D_t.
        groups: neuron groups per layer that get coefficients of their own.
        together: whether those of a layer are solved at once.
        samples: texts drawn per task (App. C.3: 30).
        max_length: tokens a text is cut to.
        seed: of the draw of texts.
        device: auto, cpu, cuda, …
        progress: told after every batch, and asked to stop within.

    Raises:
        InputError: a model or the corpus cannot be read, they do not fit together, or a group's name is not free.
    """
    if len(models) != len(categories):
        raise InputError(f"expected a category for each of the {len(models)} models, found {len(categories)}")
    for layer, own in (groups or {}).items():
        if taken := set(_WHOLE) & own.keys():
            raise InputError(f"layer {layer}: a neuron group cannot be called {taken.pop()}; rename its category")
    origin, checkpoints = open_checkpoint(base), [open_checkpoint(model) for model in models]
    batches = draw(corpus, categories, origin, samples=samples, max_length=max_length, seed=seed)
    tokens = {category: sum(int(b.real.sum()) for b in batches if b.category == category) for category in categories}
    decoder = Decoder(origin, checkpoints, batches, device)
    values: dict[tuple[int, str], tuple[float, ...]] = {}
    warnings = []
    stage, total = "linear coefficients", len(origin.architecture.layers) * len(batches)
    for mlp in origin.architecture.layers:
        submodules = decoder.submodules(mlp, (groups or {}).get(mlp.layer, {}))
        whole, grouped = submodules[: len(_WHOLE)], submodules[len(_WHOLE) :]
        units = [*([each] for each in whole), *([grouped] if together and grouped else ([each] for each in grouped))]
        counts = [len(unit) * len(models) for unit in units]
        grams = {category: [np.zeros((count, count)) for count in counts] for category in tokens}
        for step, (batch, inputs) in enumerate(zip(batches, decoder.steps(submodules), strict=True)):
            for row, unit in enumerate(units):
                progress(stage, mlp.layer * len(batches) + step, total, "batches")
                grams[batch.category][row] += _gram(unit, inputs) / tokens[batch.category]
        for row, unit in enumerate(units):
            parts = [submodule.group or submodule.kind for submodule in unit]
            alpha, warning = coefficients(np.stack([grams[category][row] for category in categories]))
            values |= {
                (mlp.layer, part): tuple(own.tolist())
                for part, own in zip(parts, np.split(alpha, len(parts)), strict=True)
            }
            if warning:
                warnings.append(f"layer {mlp.layer}, {', '.join(parts)}: {warning}")
    progress(stage, total, total, "batches")
    return Coefficients(tuple(labels(models)), values, tuple(warnings))


def coefficients(grams: np.ndarray) -> tuple[np.ndarray, str]:
    """Solve A α = b from each task's E⟨Δf_i, Δf_j⟩, (tasks, n, n) float64, of a part of the model or several at once.

    There is a task per model, and n is parts · models, the models of each part side by side.

    Returns:
        α, (n,), and a warning or "".
    """
    tasks, count, _ = grams.shape
    a = grams.sum(axis=0)  # A, (n, n)
    b = np.einsum("tipt->i", grams.reshape(tasks, count, -1, tasks))  # with task t's own change, of all parts
    alpha = np.zeros(len(a))
    changed = np.flatnonzero(np.diag(a))
    if not len(changed):
        return alpha, ""
    a, b = a[np.ix_(changed, changed)], b[changed]
    scale = np.sqrt(np.diag(a))
    spectrum = np.linalg.eigvalsh(a / np.outer(scale, scale))  # ascending
    if spectrum[0] > _SINGULAR * spectrum[-1]:
        alpha[changed] = np.linalg.solve(a, b)
        return alpha, ""
    alpha[changed] = np.linalg.lstsq(a, b, rcond=_SINGULAR)[0]
    return alpha, "the changes of the fine-tunes are linearly dependent; took the least-norm coefficients"


def _gram(unit: Sequence[Submodule], inputs: Inputs) -> np.ndarray:
    """Return the sum over tokens of ⟨Δf_i, Δf_j⟩, i and j the models in each submodule, (n, n) float64."""
    deltas = []
    for submodule in unit:
        before = submodule.output(submodule.base, inputs)  # (n, d_model), f(x; θ0)
        deltas += [submodule.output(weights, inputs) - before for weights in submodule.models]
    flat = torch.stack(deltas).flatten(1).double()  # (parts · models, tokens · d_model)
    return (flat @ flat.T).cpu().numpy()
