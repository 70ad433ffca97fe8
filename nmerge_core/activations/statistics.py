"""What activations are like over all tokens: extrema, moments, signs and a histogram of φ, per neuron of each layer."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nmerge_core.compiler import compiled
from nmerge_core.errors import InputError
from nmerge_core.files.folders import save_tensors
from nmerge_core.files.kept_files import reading
from nmerge_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

STATISTICS = "statistics.safetensors"
LOWEST, HIGHEST = -14, 10
"""Bins of the histogram end at ± 2^LOWEST, … ± 2^HIGHEST; one has what is smaller, two have what is larger."""
EDGES = np.concatenate([-(2.0 ** np.arange(HIGHEST, LOWEST - 1, -1)), 2.0 ** np.arange(LOWEST, HIGHEST + 1)])
BINS = len(EDGES) + 1
_MIDDLE = BINS // 2
_ROWS = 1024  # tokens at a time on an accelerator: d_ffn · 1024 int64 are held for the histogram


@dataclass(frozen=True)
class LayerStatistics:
    """Counts and sums over the tokens of a layer, per neuron.

    Attributes:
        seen: (exemplars,) whether an exemplar's tokens are among them.
        tokens: (1,) int64, how many these are.
        sums: (4, d_ffn) float64, Σφ, Σφ², Σφ³ and Σφ⁴.
        extrema: (2, d_ffn) float32, the largest and the smallest φ.
        places: (2, 2, d_ffn) int32, of both the exemplar and its token, the first of equal ones.
        signs: (4, d_ffn) int32, tokens with φ > 0, with φ < 0, and of both those with gate > 0; −1 where the gate is
            not known.
        histogram: (d_ffn, BINS) int32, tokens with φ between two of `EDGES`.
    """

    seen: NDArray[np.bool_]
    tokens: NDArray[np.int64]
    sums: NDArray[np.float64]
    extrema: NDArray[np.float32]
    places: NDArray[np.int32]
    signs: NDArray[np.int32]
    histogram: NDArray[np.int32]

    @classmethod
    def of(cls, exemplars: int, d_ffn: int) -> "LayerStatistics":
        """Begin with no token."""
        return cls(
            seen=np.zeros(exemplars, np.bool_),
            tokens=np.zeros(1, np.int64),
            sums=np.zeros((4, d_ffn)),
            extrema=np.array([[-np.inf], [np.inf]], np.float32).repeat(d_ffn, axis=1),
            places=np.full((2, 2, d_ffn), -1, np.int32),
            signs=np.zeros((4, d_ffn), np.int32),
            histogram=np.zeros((d_ffn, BINS), np.int32),
        )

    def add(
        self, activation: "Tensor", first: "Tensor", lengths: "Tensor", ids: Sequence[int], gate: "Tensor | None"
    ) -> None:
        """Count the tokens of a batch, less exemplars that were counted before the batch ran out of memory.

        Args:
            activation: φ (B, T, d_ffn).
            first: (B,) the first token of each text that counts.
            lengths: (B,) the tokens of each text, padding left out.
            ids: the exemplars of the batch.
            gate: (B, T, d_ffn), where the gate's output is above 0; None where it is not known.
        """
        own = [row for row, id in enumerate(ids) if not self.seen[id]]
        if gate is None:
            self.signs[2:] = -1
        if activation.device.type == "cpu":
            phi = activation.float().contiguous().numpy()
            opened = np.zeros((0, 0, 0), np.bool_) if gate is None else gate.contiguous().numpy()
            arrays = self.sums, self.extrema, self.places, self.signs, self.histogram
            rows = np.array(own, np.int64), first.numpy(), lengths.numpy(), np.array(ids, np.int64)
            _add(phi, phi.view(np.uint32), opened, *rows, *arrays)
            self.tokens[0] += int((lengths - first)[own].sum())
            self.seen[[ids[row] for row in own]] = True
        else:
            for row in sorted(own, key=ids.__getitem__):
                counted = slice(int(first[row]), int(lengths[row]))
                own_gate = None if gate is None else gate[row, counted]
                self.add_text(activation[row, counted], counted.start, ids[row], own_gate)

    def add_text(self, phi: "Tensor", start: int, id: int, gate: "Tensor | None") -> None:
        """Count the tokens of one text, φ (T, d_ffn) from its token `start` on, by tensors on any device.

        Nothing is noted before all of it is counted: memory may run out on the way, and the text comes again.
        """
        parts = [slice(at, at + _ROWS) for at in range(0, len(phi), _ROWS)]
        counted = [_counts(phi[part], None if gate is None else gate[part]) for part in parts]
        for part, (sums, extrema, tokens, signs, histogram) in zip(parts, counted, strict=True):
            self.sums[:] += sums
            for side in (0, 1):
                self._extend(side, extrema[side], id, start + part.start + tokens[side])
            self.signs[: len(signs)] += signs
            self.histogram[:] += histogram
        self.tokens[0] += len(phi)
        self.seen[id] = True

    def merge(self, other: "LayerStatistics") -> None:
        """Add what another process has counted, of other exemplars."""
        for name in ("seen", "tokens", "sums", "histogram"):
            mine = getattr(self, name)
            mine += getattr(other, name)
        self.signs[:2] += other.signs[:2]
        self.signs[2:] = np.where(other.signs[2:] < 0, -1, self.signs[2:] + other.signs[2:])
        for side in (0, 1):
            self._extend(side, other.extrema[side], other.places[side, 0], other.places[side, 1])

    def _extend(self, side: int, values: NDArray[np.float32], exemplars: Any, tokens: Any) -> None:
        """Take (d_ffn,) values that are further out, or as far and of an earlier exemplar."""
        best, (exemplar, token) = self.extrema[side], self.places[side]
        further = values > best if side == 0 else values < best
        new = further | ((values == best) & (exemplars < exemplar))
        best[new] = values[new]
        exemplar[new], token[new] = np.broadcast_to(exemplars, new.shape)[new], tokens[new]


def _counts(phi: "Tensor", gate: "Tensor | None") -> list[NDArray[Any]]:
    """Count some tokens of a text, φ (t, d_ffn), by tensors.

    Returns:
        Sums (4, d_ffn), extrema (2, d_ffn) and their tokens (2, d_ffn), signs (2 or, with a gate, 4, d_ffn) and the
        histogram (d_ffn, BINS), as `LayerStatistics` has them.
    """
    part = phi.float()
    wide = part.double()
    above, below = part > 0, part < 0
    signs = [above, below, *(() if gate is None else (gate & above, gate & below))]
    level = (torch.frexp(part).exponent - LOWEST).clamp(0, HIGHEST - LOWEST + 1)  # frexp's is log2 + 1
    level = torch.where(part == 0, 0, level)
    bins = _MIDDLE + torch.where(below, -level, level)
    cells = bins + BINS * torch.arange(part.shape[1], device=part.device)  # (t, d_ffn)
    found = [
        torch.stack([power.sum(0) for power in (wide, wide.square(), wide**3, wide.square().square())]),
        *map(torch.stack, zip(part.max(0), part.min(0), strict=True)),
        torch.stack([sign.sum(0).int() for sign in signs]),
        torch.bincount(cells.flatten(), minlength=BINS * part.shape[1]).view(-1, BINS).int(),
    ]
    return [each.cpu().numpy() for each in found]


@compiled
def _add(
    phi: NDArray[np.float32],
    words: NDArray[np.uint32],
    opened: NDArray[np.bool_],
    rows: NDArray[np.int64],
    first: NDArray[np.int64],
    lengths: NDArray[np.int64],
    ids: NDArray[np.int64],
    sums: NDArray[np.float64],
    extrema: NDArray[np.float32],
    places: NDArray[np.int32],
    signs: NDArray[np.int32],
    histogram: NDArray[np.int32],
) -> None:
    """Count the tokens of some rows of φ (B, T, d_ffn), whose bits are `words`."""
    width = phi.shape[2]
    for row in rows:
        id = ids[row]
        for token in range(first[row], lengths[row]):
            own, bits = phi[row, token], words[row, token]
            for neuron in range(width):
                value = np.float64(own[neuron])
                square = value * value
                sums[0, neuron] += value
                sums[1, neuron] += square
                sums[2, neuron] += square * value
                sums[3, neuron] += square * square
            for neuron in range(width):
                value = own[neuron]
                if value > extrema[0, neuron] or (value == extrema[0, neuron] and id < places[0, 0, neuron]):
                    extrema[0, neuron] = value
                    places[0, 0, neuron], places[0, 1, neuron] = id, token
                if value < extrema[1, neuron] or (value == extrema[1, neuron] and id < places[1, 0, neuron]):
                    extrema[1, neuron] = value
                    places[1, 0, neuron], places[1, 1, neuron] = id, token
            for neuron in range(width):
                signs[0, neuron] += own[neuron] > 0
                signs[1, neuron] += own[neuron] < 0
            if len(opened) > 0:
                for neuron in range(width):
                    signs[2, neuron] += opened[row, token, neuron] and own[neuron] > 0
                    signs[3, neuron] += opened[row, token, neuron] and own[neuron] < 0
            for neuron in range(width):
                exponent = int((bits[neuron] >> np.uint32(23)) & np.uint32(0xFF)) - 127  # floor(log2 |φ|)
                level = min(max(exponent - LOWEST + 1, 0), HIGHEST - LOWEST + 1)
                histogram[neuron, _MIDDLE + (level if own[neuron] > 0 else -level)] += 1


def save(statistics: Mapping[int, LayerStatistics], folder: Path) -> None:
    """Write the statistics of each layer, in one step."""
    tensors = {
        f"layer.{layer}.{field.name}": torch.from_numpy(getattr(own, field.name))
        for layer, own in statistics.items()
        for field in fields(own)
    }
    part = folder / f".{STATISTICS}"
    save_tensors(tensors, part)
    os.replace(part, folder / STATISTICS)


def load(folder: Path, layers: Sequence[int]) -> dict[int, LayerStatistics]:
    """Read the statistics of some layers.

    Raises:
        InputError: the classification was made without, or the file is damaged.
    """
    from safetensors import safe_open

    path = folder / STATISTICS
    if not path.exists():
        raise InputError(f"{folder}: expected a classification with {STATISTICS}; classify with statistics")
    names = [field.name for field in fields(LayerStatistics)]
    with reading(path), safe_open(path, framework="numpy") as file:
        read = {layer: [file.get_tensor(f"layer.{layer}.{name}") for name in names] for layer in layers}
    return {layer: LayerStatistics(*arrays) for layer, arrays in read.items()}


def table(statistics: Mapping[int, LayerStatistics]) -> pd.DataFrame:
    """Return a row per neuron.

    Columns layer, neuron, tokens, mean, variance, skew (m₃ / m₂^1.5), kurtosis (m₄ / m₂², 3 of a normal distribution; m
    are central moments over the tokens; NaN where φ does not vary), positive (share of tokens with φ > 0), max and min
    with max_exemplar, max_token, min_exemplar, min_token; and the shares of tokens by the signs of gate · z and up · z:
    gate_pos_up_pos, gate_pos_up_neg, gate_neg_up_pos, gate_neg_up_neg; NaN where there is no gate or several MLPs.

    The signs of φ and of the gate give that of up, as the activation function of a gate has its argument's sign (SiLU,
    GELU, ReLU); where φ is 0 a token is none of the four.
    """
    return pd.concat([_table(layer, own) for layer, own in statistics.items()], ignore_index=True)


def _table(layer: int, own: LayerStatistics) -> pd.DataFrame:
    n = own.tokens[0]
    mean, second, third, fourth = own.sums / n  # (d_ffn,) each
    variance = second - mean**2
    varies = variance > 1e-12 * second  # below it is what float64 makes of equal values
    spread = np.where(varies, variance, np.nan)
    skew = (third - 3 * mean * second + 2 * mean**3) / spread**1.5
    kurtosis = (fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4) / spread**2
    above, below, above_open, below_open = np.where(own.signs < 0, np.nan, own.signs / n)
    return pd.DataFrame(
        {
            "layer": layer,
            "neuron": np.arange(len(mean)),
            "tokens": n,
            "mean": mean,
            "variance": np.where(varies, variance, 0.0),
            "skew": skew,
            "kurtosis": kurtosis,
            "positive": above,
            "max": own.extrema[0],
            "max_exemplar": own.places[0, 0],
            "max_token": own.places[0, 1],
            "min": own.extrema[1],
            "min_exemplar": own.places[1, 0],
            "min_token": own.places[1, 1],
            "gate_pos_up_pos": above_open,
            "gate_pos_up_neg": below_open,
            "gate_neg_up_pos": below - below_open,
            "gate_neg_up_neg": above - above_open,
        }
    )
