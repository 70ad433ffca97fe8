"""How much of its space a model uses: effective rank and variance of what its layers put out."""

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from nmerge_core.activations.collect import read_text
from nmerge_core.activations.hooks import record_hidden_states
from nmerge_core.errors import InputError
from nmerge_core.loading import LanguageModel


def spread(language_model: LanguageModel, texts: Sequence[str], max_length: int = 64) -> pd.DataFrame:
    """Measure the hidden states H, (tokens, d_model), that each layer puts out on some texts.

    The first token of a text, which in many models is far larger than all others (an attention sink), is left out
    where it has another.

    Returns:
        Columns layer, rank (`effective_rank` of H less its mean over the tokens), variance (of an entry over the
        tokens, the mean over the entries); NaN where H is not finite.

    Raises:
        InputError: it is no causal language model, the texts have no tokens, or the model's layers are not known.
    """
    language_model.check_causal()
    read = [read_text(language_model, text, max_length).ids for text in texts]
    states: dict[int, list[Tensor]] = {layer.layer: [] for layer in language_model.architecture.layers}

    def keep(layer: int, hidden: Tensor) -> None:
        own = hidden[0].double().cpu()  # (T, d_model)
        states[layer].append(own[1:] if len(own) > 1 else own)

    with (
        torch.inference_mode(),
        record_hidden_states(language_model.model, language_model.architecture, keep),
    ):
        for ids in filter(None, read):
            tokens = torch.tensor([ids], device=language_model.device)
            language_model.model.base_model(input_ids=tokens, use_cache=False)
    if not any(states.values()):
        raise InputError("expected texts to measure hidden states on, found none with a token")
    rows = []
    for layer, parts in states.items():
        hidden = torch.cat(parts)
        centred = hidden - hidden.mean(0)
        rows.append({"layer": layer, "rank": effective_rank(centred), "variance": centred.square().mean().item()})
    return pd.DataFrame(rows)


def effective_rank(matrix: Tensor) -> float:
    """Return exp(−Σ p_i log p_i) with p = σ / Σ σ of the singular values σ (Roy & Vetterli, EUSIPCO 2007).

    It is the number of directions where all are equally strong, 1 where one has everything; 0 of a matrix of zeros, NaN
    of one that is not finite.
    """
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    gram = matrix @ matrix.T  # the smaller one; its eigenvalues are σ²
    if not gram.isfinite().all():
        return math.nan
    sizes = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if not sizes.any():
        return 0.0
    shares = sizes[sizes > 0] / sizes.sum()
    return math.exp(-(shares * shares.log()).sum().item())
