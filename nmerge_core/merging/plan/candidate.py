"""A merged model that is never written: what a search measures, made anew in memory for the coefficients it tries."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nmerge_core.architecture import Matrix
from nmerge_core.checkpoints.rows import torch_dtype
from nmerge_core.corpus.text_samples import Batch
from nmerge_core.errors import InputError
from nmerge_core.kinds import SCORED
from nmerge_core.loading import LanguageModel, empty_model, load_model
from nmerge_core.machine import CPU
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.stream import Rows, Stream, all_rows
from nmerge_core.merging.recipe.recipe import DTYPES
from nmerge_core.number_format import choose_format
from nmerge_core.parallel import in_order
from nmerge_core.stored import stored_weights

Result = TypeVar("Result")


@dataclass(frozen=True)
class Candidate:
    """One whole model in memory; `weights` are its parameters' own memory, by their names in the checkpoints.

    `rounded` are the dtypes in which they would be written: they are rounded to these before the model runs, in
    whatever format it does.
    """

    language_model: LanguageModel
    stream: Stream
    weights: Mapping[str, Tensor]
    rounded: Mapping[str, torch.dtype]

    def fill(self, delta: Callable[[Block], Tensor], tick: Callable[[], None]) -> None:
        """Set the weights to base + `delta(block)`, rounded as they would be written; `tick` is called per block."""

        def work(rows: Rows) -> None:
            block = self.stream.load(rows)
            matrix = self.stream.donor.architecture.matrix(rows.name)
            merged = (block.base + delta(block)).to(self.rounded[rows.name])
            put_rows(self.weights[rows.name], matrix, rows.start, merged.reshape(-1, matrix.columns))

        for _ in in_order(work, all_rows(self.stream, list(self.weights))):
            tick()

    def logits(self, batch: Batch) -> Tensor:
        """Run a batch and return its logits (B, T, vocabulary); causal attention never sees the right padding.

        Raises:
            InputError: it is no causal language model.
        """
        self.language_model.check_causal()
        tokens = batch.tokens.to(self.language_model.device)
        logits: Tensor = self.language_model.model(input_ids=tokens, use_cache=False).logits
        return logits

    def each(self, work: Callable[[Batch], Result], batches: Sequence[Batch]) -> Iterator[Result]:
        """Work on every batch, in order: on the CPU on one thread a batch, so that no sum depends on the threads."""
        return in_order(work, batches) if self.stream.device == CPU else map(work, batches)

    def cross_entropy(self, batches: Sequence[Batch], tick: Callable[[], None]) -> float:
        """Return the mean, over the batches' categories, of the mean next-token cross-entropy in nats."""

        def work(batch: Batch) -> float:
            with torch.inference_mode():
                return next_token_loss(self.logits(batch), batch)

        predicted = Counter[str]()
        for batch in batches:
            predicted[batch.category] += int(batch.real[:, 1:].sum())
        total = 0.0
        for batch, loss in zip(batches, self.each(work, batches), strict=True):
            total += loss / max(1, predicted[batch.category])
            tick()
        return total / len(predicted)


def load_candidate(stream: Stream, names: Sequence[str], dtype: str | None, run_dtype: str) -> Candidate:
    """Load the donor's model for weights to be merged into.

    Args:
        stream: the models that are merged.
        names: the tensors that are merged.
        dtype: the format that the merge would be written in; that of each of the donor's tensors if None.
        run_dtype: the format it runs in, as in `number_format.choose_format`.

    Raises:
        InputError: the model cannot be loaded, or transformers keeps its weights under other names or shapes.
    """
    donor = stream.donor
    chosen = choose_format(donor, run_dtype, stream.device, written=dtype)
    if donor.stacked:
        language_model = empty_model(donor, stream.device, chosen.name, kinds=SCORED)
    else:
        language_model = load_model(donor.reference, stream.device, chosen.name, kinds=SCORED)
    own = language_model.model.state_dict()
    stored = stored_weights(language_model.model, {name: donor.info(name).shape for name in names})
    plain = {each.names[0]: own[each.loaded[0]] for each in stored if each.plain}
    weights = {}
    for name in names:
        found = plain.get(name)
        if found is None or tuple(found.shape) != donor.info(name).shape:
            raise InputError(
                f"{donor.reference}, tensor {name}: transformers runs this model from weights of other names or "
                "shapes, so it cannot be merged in memory; search with the command `sweep`, which writes each candidate"
            )
        weights[name] = found
    rounded = {name: torch_dtype(DTYPES[dtype] if dtype else donor.info(name).dtype) for name in names}
    return Candidate(language_model, stream, weights, rounded)


def as_matrix(tensor: Tensor, matrix: Matrix) -> Tensor:
    """Return a whole tensor as its `Matrix`, (rows, columns)."""
    return _stack(tensor, matrix).reshape(matrix.rows, matrix.columns)


def put_rows(tensor: Tensor, matrix: Matrix, start: int, rows: Tensor) -> None:
    """Write rows (n, columns) of a tensor seen as its `Matrix` into its memory, from row `start` on."""
    done, stack = 0, _stack(tensor, matrix)
    for index, own in matrix.parts(start, start + len(rows)):
        stack[index, own] = rows[done : done + own.stop - own.start]
        done += own.stop - own.start


def _stack(tensor: Tensor, matrix: Matrix) -> Tensor:
    """View a whole tensor as its stack of matrices, (stack, rows, columns)."""
    if matrix.transposed:
        return tensor.view(matrix.stack, matrix.columns, -1).transpose(1, 2)
    return tensor.view(1, matrix.rows, matrix.columns)


def next_token_loss(logits: Tensor, batch: Batch) -> float:
    """Return the summed cross-entropy of each text's real tokens after its first; logits (B, T, vocabulary)."""
    real = batch.real[:, 1:].to(logits.device)  # (B, T − 1)
    following = batch.tokens[:, 1:].to(logits.device)[real]  # (N,)
    return F.cross_entropy(logits[:, :-1][real].float(), following, reduction="sum").item()
