"""The largest |φ| of each neuron over the tokens of a text, and the token at which it is first reached."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nmerge_core.compiler import compiled

Words = NDArray[np.uint16] | NDArray[np.uint32]
_WORDS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def largest(activation: Tensor, first: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return max_t |φ_j(s,t)| over the tokens first(s) ≤ t < length(s) of each text s, and the first such t.

    One pass over φ on a CPU: magnitudes are ordered like their bits, so that no copy of φ is made, in any format.

    Args:
        activation: φ (B, T, d_ffn).
        first: (B,) the first token of each text that counts.
        lengths: (B,) the tokens of each text, padding left out.

    Returns:
        Values (B, d_ffn) in the format of φ, not finite where an entry of φ is not; tokens (B, d_ffn), int64. Both on
        φ's device.
    """
    if activation.device.type == "cpu" and activation.dtype in _WORDS:
        words = activation.contiguous().view(_WORDS[activation.dtype]).numpy()
        best = np.zeros((len(words), words.shape[2]), np.uint32)
        tokens = np.empty(best.shape, np.int64)
        _largest(words.view(f"u{words.itemsize}"), first.numpy(), lengths.numpy(), best, tokens)
        found = torch.from_numpy(best.astype(f"u{words.itemsize}").view(words.dtype))
        return found.view(activation.dtype), torch.from_numpy(tokens)
    place = torch.arange(activation.shape[1])
    counted = (place >= first[:, None]) & (place < lengths[:, None])  # (B, T)
    ignored = ~counted.to(activation.device)[..., None]  # (B, T, 1)
    values, tokens_ = activation.abs().masked_fill_(ignored, -1.0).max(dim=1)
    return values, tokens_


@compiled
def _largest(
    words: Words,
    first: NDArray[np.int64],
    lengths: NDArray[np.int64],
    best: NDArray[np.uint32],
    tokens: NDArray[np.int64],
) -> None:
    """Write the largest bits without sign of `words` (B, T, d_ffn) to `best` (B, d_ffn), and where they are first."""
    magnitude = np.uint32(0x7FFFFFFF) if words.itemsize == 4 else np.uint32(0x7FFF)
    for text in range(len(words)):
        for neuron in range(words.shape[2]):
            tokens[text, neuron] = first[text]
        for token in range(first[text], lengths[text]):
            for neuron in range(words.shape[2]):
                size = np.uint32(np.uint32(words[text, token, neuron]) & magnitude)
                if size > best[text, neuron]:
                    best[text, neuron] = size
                    tokens[text, neuron] = token
