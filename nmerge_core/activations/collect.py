"""Run a corpus through a model and keep, for every exemplar and neuron, one score: its largest activation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nmerge_core import distributed
from nmerge_core.activations.forward import run_body
from nmerge_core.activations.grid import Grid
from nmerge_core.activations.hooks import record_activations, record_gates
from nmerge_core.activations.kept import POSITIONS, SCORES, STATES, KeptScores, Room, forget
from nmerge_core.activations.known import Known
from nmerge_core.activations.largest import largest
from nmerge_core.activations.layered import LayeredModel, Run, Walk
from nmerge_core.activations.reading import Reading, read_corpus
from nmerge_core.activations.statistics import STATISTICS, LayerStatistics, load
from nmerge_core.corpus.corpus import Corpus
from nmerge_core.errors import InputError, out_of_memory
from nmerge_core.loading import LanguageModel
from nmerge_core.progress import Progress, silent

BatchSize = int | Literal["auto"]
Part = tuple[Sequence[int], AbstractContextManager[Run]]  # layers that are recorded together, while they are there
ScoreBatch = Callable[[Sequence[int]], None]  # of the ids of some exemplars
_AUTO_TOKENS = {"cuda": 16384, "cpu": 2048}  # padded tokens of a batch to start with


@dataclass(frozen=True)
class Scores:
    """Scores a_j(s) of neurons and where they were reached; layers may hold different numbers of neurons.

    Attributes:
        layers: the layers, in the order of `values` and `positions`.
        values: of each layer (exemplars, d_ffn), the format the model runs in.
        positions: of each layer (exemplars, d_ffn), integer; the token, from 0, at which |φ| was first largest: in a
            decoder beside an encoder the one that it writes (`forward.run_body`), of an image as `grid` says.
        statistics: of each layer what φ is like over all tokens, where that is asked for.
        grid: of images, where their tokens lie.
    """

    layers: tuple[int, ...]
    values: tuple[Tensor, ...]
    positions: tuple[Tensor, ...]
    statistics: dict[int, LayerStatistics] | None = None
    grid: Grid | None = None


@dataclass(frozen=True)
class TokenActivations:
    """The tokens of one text, which joined give the text back, and one neuron's signed activation φ at each."""

    tokens: list[str]
    values: list[float]


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text: their ids, and the pieces of it that they stand for, which joined give it back."""

    ids: list[int]
    pieces: list[str]


def collect(
    language_model: LanguageModel,
    corpus: Corpus,
    *,
    max_length: int = 512,
    batch_size: BatchSize = "auto",
    layers: Sequence[int] | None = None,
    skip_first: bool = False,
    statistics: bool = False,
    folder: Path | None = None,
    known: Known | None = None,
    progress: Progress = silent,
) -> Scores:
    """Compute a_j(s) = max_t |φ_j(s,t)| over the real tokens t of every exemplar s (NeuronMerge §2.2, METHODS "a_j").

    Of an image t counts the class token, where there is one, and the patches.

    Exemplars are truncated to `max_length` tokens (or to the model's own limit), padded on the right, and run longest
    first, so that a batch has little padding and one that is too large fails at once. Memory holds the activation of
    one batch and one layer at a time. The result does not depend on batch size or order, to the format's rounding.

    A `LayeredModel` takes all exemplars through one layer before it reads the next; their hidden states lie beside the
    scores.

    Args:
        language_model: the model.
        corpus: the exemplars.
        max_length: tokens of an exemplar that are read.
        batch_size: exemplars a batch; "auto" bounds tokens instead and halves them when memory runs out.
        layers: the layers to record; by default all that see the corpus, of CLIP those of one encoder.
        skip_first: leave out the first token (an attention sink in many models) of exemplars that have another.
            The papers keep it. Of an image it is the class token.
        statistics: count what φ is like over all tokens as well (see `Scores.statistics`).
        folder: where the scores lie, and not in memory, as `store` has them: the same call goes on after what it had
            when it was killed, less the last seconds; among several processes it begins anew.
        known: scores that are there already, which are taken over; not with statistics, nor among several processes.
        progress: told of exemplars; of a `LayeredModel` of steps, an exemplar at a layer each.

    Among the processes of `accelerate launch` the exemplars are divided; the first process returns all scores, the
    others theirs and zeros.

    Raises:
        InputError: texts for a model of images alone or the reverse, an exemplar without tokens, activations that are
            not finite, or a batch that does not fit.
    """
    if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size > 0):
        raise InputError(f"batch size: expected 'auto' or a number of exemplars from 1, found {batch_size!r}")
    reading = read_corpus(language_model, corpus, max_length)
    chosen = reading.layers if layers is None else tuple(layers)
    shapes = [(len(reading.lengths), language_model.architecture.layers[layer].d_ffn) for layer in chosen]
    position = torch.int16 if max_length < 2**15 else torch.int32
    dtype = language_model.model.dtype
    rank, processes = distributed.join()
    taken = () if known is None else known.ids.keys()
    missing = [id for id in range(len(reading.lengths)) if id not in taken]
    order = sorted(missing, key=lambda id: -reading.lengths[id])[rank::processes]
    lengths = {id: reading.lengths[id] for id in order}
    room = {SCORES: (chosen, shapes, dtype), POSITIONS: (chosen, shapes, position)}
    if isinstance(language_model, LayeredModel):
        room[STATES] = (0, 1), [(sum(lengths.values()), language_model.architecture.d_model)] * 2, dtype
    kept = None
    if folder is None:
        values, positions, *states = (tuple(torch.zeros(s, dtype=kind) for s in own) for _, own, kind in room.values())
    else:
        if processes > 1:  # what is gathered is added up, so that it begins at zeros and is not gone on with
            forget(folder)
            (folder / SCORES).unlink(missing_ok=True)
        beside = "" if known is None else str(known.folder)
        kept = KeptScores(folder, [Room(folder / name, *own) for name, own in room.items()], beside)
        values, positions, *states = kept.tensors
    if known is not None:
        known.put(chosen, values, positions)
    parts: list[Part] = [(chosen, nullcontext(whole(language_model)))]
    if isinstance(language_model, LayeredModel):
        walk = Walk(language_model, lengths, *states)
        parts = [([layer] if layer in chosen else [], walk.layer(layer)) for layer in range(max(chosen) + 1)]
    total = len(parts) * len(order)
    done = kept.done(total) if kept is not None else 0
    counted = None
    if statistics:
        if folder is not None and done and (folder / STATISTICS).exists():
            counted = load(folder, chosen)
        else:
            done, counted = 0, {at: LayerStatistics.of(*shape) for at, shape in zip(chosen, shapes, strict=True)}
    scores = Scores(chosen, values, positions, counted, reading.grid)
    budget = _AUTO_TOKENS["cuda" if language_model.device.type == "cuda" else "cpu"]
    stage = f"Activations of {language_model.label}"
    unit = "exemplars" if len(parts) == 1 else "steps"
    progress(stage, done, total, unit)
    for number, (recorded, entered) in enumerate(parts):
        first, end = number * len(order), (number + 1) * len(order)
        if done >= end:
            continue
        with entered as run, scoring(language_model, reading, scores, skip_first, recorded, run) as score:
            while done < end:
                at = done - first
                size = max(1, budget // lengths[order[at]]) if batch_size == "auto" else batch_size
                batch = order[at : at + size]
                try:
                    score(batch)
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error):
                        raise
                    if batch_size != "auto" or len(batch) == 1:
                        raise InputError(
                            f"{len(batch)} exemplars of up to {lengths[batch[0]]} tokens do not fit in memory; "
                            "lower the batch size or the maximum length"
                        ) from None
                    budget = len(batch) * lengths[batch[0]] // 2
                    torch.cuda.empty_cache()
                    continue
                done += len(batch)
                if kept is not None and processes == 1:  # a layer is noted before the next one takes its states' place
                    kept.tell(done, total, scores.statistics, due=done == end)
                progress(stage, done, total, unit)
    if processes > 1:
        distributed.gather((*scores.values, *scores.positions))
        if counted is not None:
            for other in distributed.gathered(counted):
                for layer in chosen:
                    counted[layer].merge(other[layer])
    for layer, own in zip(chosen, scores.values, strict=True):
        if not own.isfinite().all():
            raise InputError(f"{language_model.label}, layer {layer}: activations are not finite in {dtype}")
    return scores


def token_activations(
    language_model: LanguageModel, texts: Sequence[str], layer: int, neuron: int, max_length: int = 512
) -> list[TokenActivations]:
    """Return one neuron's activation φ at every token of each text, truncated to `max_length` tokens.

    The texts run as one batch, padded on the right.

    Raises:
        InputError: the model has no such layer or neuron.
    """
    check_neuron(language_model, layer, neuron)
    read = [read_text(language_model, text, max_length) for text in texts]
    tokens = [torch.tensor(text.ids, dtype=torch.long) for text in read]
    padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)  # (B, T)
    lengths = torch.tensor([len(ids) for ids in tokens])
    values: list[list[float]] = []

    def keep(layer: int, activation: Tensor) -> None:
        values.extend(activation[..., neuron].float().tolist())  # (B, T)

    if padded.numel():
        with record_activations(language_model.model, language_model.architecture, [layer], keep):
            run_body(language_model, padded, torch.arange(padded.shape[1]) < lengths[:, None])
    else:
        values = [[] for _ in texts]
    return [TokenActivations(text.pieces, own[: len(text.ids)]) for text, own in zip(read, values, strict=True)]


def check_neuron(language_model: LanguageModel, layer: int, neuron: int) -> None:
    """Raise an InputError where a model has no such layer or neuron."""
    layers = language_model.architecture.layers
    if not 0 <= layer < len(layers):
        raise InputError(f"{language_model.label}: no layer {layer}; it has layers 0 to {len(layers) - 1}")
    if not 0 <= neuron < layers[layer].d_ffn:
        raise InputError(
            f"{language_model.label}: no neuron {neuron} in layer {layer}; it has {layers[layer].d_ffn} neurons"
        )


def read_text(language_model: LanguageModel, text: str, max_length: int = 512) -> Tokens:
    """Return the tokens of a text, at most `max_length`, or as many as the model reads."""
    limit = language_model.longest(max_length)
    encoded = language_model.tokenizer(text, truncation=True, max_length=limit, return_offsets_mapping=True)
    ids, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
    return Tokens(ids, pieces_of(language_model.tokenizer, text, ids, offsets))


def pieces_of(
    tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int], offsets: Sequence[tuple[int, int]]
) -> list[str]:
    """Cut a text where its tokens end, given their ids and the (start, end) of each in the text."""
    names = tokenizer.convert_ids_to_tokens(ids)
    pieces, end = [], 0
    for name, (start, stop) in zip(names, offsets, strict=True):
        # From the end of the last token: keeps spaces that offsets leave out, and a character made of several
        # tokens appears once. Tokens that stand for no text (beginning of sequence) appear by name.
        pieces.append(text[end:stop] if start < stop else name)
        end = max(end, stop)
    return pieces


@contextmanager
def scoring(
    language_model: LanguageModel,
    reading: Reading,
    scores: Scores,
    skip_first: bool,
    layers: Sequence[int],
    run: Run,
) -> Iterator[ScoreBatch]:
    """Give what takes exemplars through `run` as one batch, padded on the right, and writes their rows of the scores.

    Hooks are set once for all batches, on these layers: to find a model's modules takes as long as a short text.
    """
    rows = first = lengths = torch.empty(0)
    gates: dict[int, Tensor] = {}

    def open_gate(layer: int, gate: Tensor) -> None:
        gates[layer] = gate > 0  # (B, T, d_ffn)

    def reduce(layer: int, activation: Tensor) -> None:
        if scores.statistics:
            scores.statistics[layer].add(activation, first, lengths, rows.tolist(), gates.pop(layer, None))
        values, positions = largest(activation, first, lengths)  # (B, d_ffn)
        index = scores.layers.index(layer)
        scores.values[index][rows] = values.to(scores.values[index].dtype).cpu()  # of T5 in float16 φ is in float32
        scores.positions[index][rows] = positions.to(scores.positions[index].dtype).cpu()

    def score(ids: Sequence[int]) -> None:
        nonlocal rows, first, lengths
        rows, lengths = torch.tensor(ids), torch.tensor([reading.lengths[id] for id in ids])
        first = (lengths > 1).long() if skip_first else torch.zeros_like(lengths)
        padded = torch.nn.utils.rnn.pad_sequence(reading.inputs(ids), batch_first=True)  # (B, T), or (B, 3, h, w)
        run(padded, torch.arange(int(lengths.max())) < lengths[:, None], ids)

    read = language_model.model, language_model.architecture, layers
    with record_activations(*read, reduce), record_gates(*read, open_gate) if scores.statistics else nullcontext():
        yield score


def whole(language_model: LanguageModel) -> Run:
    """Give what takes exemplars through the body of a model in memory."""
    return lambda exemplars, real, ids: run_body(language_model, exemplars, real)
