"""Excerpts of the texts that excite neurons most and least: one pass of the corpus through the model."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nmerge_core.activations.collect import Tokens, read_text
from nmerge_core.activations.forward import run_body
from nmerge_core.activations.hooks import record_activations
from nmerge_core.activations.store import Classification
from nmerge_core.errors import InputError
from nmerge_core.labelling.shown import AFTER, BEFORE, HELD_OUT, QUANTILE, SHOWN, Excerpt, Neuron, Shown
from nmerge_core.loading import LanguageModel
from nmerge_core.progress import Progress

_BATCH_TOKENS = 4096  # padded
_HELD_VALUES = 1 << 26  # activations that are held at once: of some neurons at every token of the corpus, float32


def read_excerpts(
    language_model: LanguageModel, found: Classification, neurons: Sequence[Neuron], seed: int, progress: Progress
) -> Iterator[Shown]:
    """Run the corpus through the model, and cut out what is shown of each neuron.

    The first ten exemplars are shown; of the rest the next five excite the neuron, and five are drawn of the half that
    excites it least. Excerpts are the tokens around the one at which |φ| is largest.

    Args:
        language_model: the model that was classified, in the number format in which it was.
        found: its classification, of 30 exemplars or more.
        neurons: those to show.
        seed: of the draw.
        progress: told of exemplars.

    Raises:
        InputError: there are too few exemplars.
    """
    texts = list(found.exemplars()["text"])
    if len(texts) < (least := 2 * (SHOWN + HELD_OUT)):
        raise InputError(
            f"{found.folder}: expected {least} exemplars or more, of which some are shown and others held out, found "
            f"{len(texts)}; classify with a larger corpus"
        )
    read = [read_text(language_model, text, found.meta["max_length"]) for text in texts]
    skipped = [int(found.meta.get("skip_first", False) and len(text.ids) > 1) for text in read]
    size = max(1, _HELD_VALUES // sum(len(text.ids) for text in read))
    for start in range(0, len(neurons), size):
        block = neurons[start : start + size]
        traces = _traces(language_model, read, block, progress)
        counted = np.concatenate([trace[skip:] for trace, skip in zip(traces, skipped, strict=True)])
        thresholds = np.quantile(counted, QUANTILE, axis=0)  # (neurons,)
        for trace, skip in zip(traces, skipped, strict=True):
            trace[:skip] = 0  # what is left out of scores fires nowhere
        peaks = np.stack([trace.max(axis=0) for trace in traces])  # (exemplars, neurons)
        for column, neuron in enumerate(block):

            def cut(exemplar: int, column: int = column) -> Excerpt:
                return _cut(read[exemplar].pieces, traces[exemplar][:, column], thresholds[column])  # noqa: B023

            top, others, excited = _chosen(found, neuron, peaks[:, column], seed)
            yield Shown(neuron, tuple(map(cut, top)), tuple(map(cut, others)), excited)


def _chosen(
    found: Classification, neuron: Neuron, peaks: NDArray[np.float32], seed: int
) -> tuple[list[int], list[int], frozenset[int]]:
    """Return the exemplars to show, those held out, shuffled, and which of these excite the neuron."""
    layer, number = neuron
    best = found.top(layer, SHOWN + HELD_OUT)[0][number].tolist()
    order = np.argsort(peaks, kind="stable")
    rest = order[~np.isin(order, best)]
    # Of a neuron that many texts excite alike, as a dead one, the weaker half has some of its best.
    weaker = max(HELD_OUT, len(np.setdiff1d(order[: len(peaks) // 2], best)))
    generator = np.random.default_rng([seed, layer, number])
    others = generator.choice(np.sort(rest[:weaker]), HELD_OUT, replace=False)
    held_out = [*best[SHOWN:], *others.tolist()]
    shuffled = generator.permutation(len(held_out)).tolist()
    excited = frozenset(place for place, one in enumerate(shuffled) if one < HELD_OUT)
    return best[:SHOWN], [held_out[one] for one in shuffled], excited


def _cut(pieces: Sequence[str], trace: NDArray[np.float32], threshold: float) -> Excerpt:
    peak = int(trace.argmax())
    part = slice(max(0, peak - BEFORE), peak + AFTER + 1)
    return Excerpt(tuple(pieces[part]), tuple((trace[part] > threshold).tolist()))


def _traces(
    language_model: LanguageModel, texts: Sequence[Tokens], neurons: Sequence[Neuron], progress: Progress
) -> list[NDArray[np.float32]]:
    """Return |φ| of some neurons at every token of each text, (tokens, neurons) float32."""
    columns: Mapping[int, list[int]] = {
        layer: [at for at, (own, _) in enumerate(neurons) if own == layer] for layer, _ in neurons
    }
    held = np.empty(0, np.float32)

    def keep(layer: int, activation: Tensor) -> None:  # (B, T, d_ffn)
        wanted = torch.tensor([neurons[at][1] for at in columns[layer]], device=activation.device)
        held[..., columns[layer]] = activation[..., wanted].abs().float().cpu().numpy()  # (B, T, neurons of the layer)

    traces: dict[int, NDArray[np.float32]] = {}
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index].ids))
    stage = f"Reading with {language_model.label}"
    with record_activations(language_model.model, language_model.architecture, sorted(columns), keep):
        while len(traces) < len(order):
            progress(stage, len(traces), len(order), "exemplars")
            longest = len(texts[order[len(traces)]].ids)
            batch = order[len(traces) :][: max(1, _BATCH_TOKENS // longest)]
            tokens = [torch.tensor(texts[index].ids) for index in batch]
            lengths = torch.tensor([len(ids) for ids in tokens])
            padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)  # (B, T)
            held = np.empty((*padded.shape, len(neurons)), np.float32)
            run_body(language_model, padded, torch.arange(longest) < lengths[:, None])
            traces |= {index: held[row, : lengths[row]].copy() for row, index in enumerate(batch)}
    progress(stage, len(order), len(order), "exemplars")
    return [traces[index] for index in range(len(texts))]
