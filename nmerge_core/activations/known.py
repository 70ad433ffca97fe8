"""Scores that an earlier classification of a model has: of a corpus that has grown only the new texts are run (D.9)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from nmerge_core.activations.kept import SCORES
from nmerge_core.activations.store import open_classification
from nmerge_core.corpus.corpus import Corpus
from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import reading


@dataclass(frozen=True)
class Known:
    """The classification folder of an earlier corpus, and by the id of an exemplar here the one that it has there."""

    folder: Path
    ids: Mapping[int, int]

    def put(self, layers: Sequence[int], values: Sequence[Tensor], positions: Sequence[Tensor]) -> None:
        """Write the rows of these exemplars into values and positions (exemplars, d_ffn) of each layer.

        Of positions a folder has those of each neuron's best exemplars alone: as all of its exemplars are here, no
        others of them can be among the best.
        """
        found = open_classification(self.folder)
        here, there = torch.tensor([*self.ids]), torch.tensor([*self.ids.values()])
        ids_here = torch.empty_like(here).scatter_(0, there, here)  # by the id there
        with reading(self.folder / SCORES), safe_open(self.folder / SCORES, framework="pt") as file:
            for layer, own, places in zip(layers, values, positions, strict=True):
                own[here] = file.get_tensor(f"layer.{layer}")[there]
                best = ids_here[torch.from_numpy(found.top(layer)[0]).long()]  # (d_ffn, K)
                places.T.scatter_(1, best, torch.from_numpy(found.positions(layer)).to(places.dtype))


def known_of(folders: Sequence[Path], corpus: Corpus) -> Known | None:
    """Return what the folder that has most of a corpus knows, of those that have nothing else; None where none does."""
    found = [known for folder in folders if (known := _known(folder, corpus))]
    return max(found, key=lambda known: len(known.ids), default=None)


def _known(folder: Path, corpus: Corpus) -> Known | None:
    try:
        before = open_classification(folder).exemplars()
    except InputError:  # it is damaged, or was deleted a moment ago
        return None
    if corpus.images or len(before) > len(corpus.exemplars):
        return None
    waiting = defaultdict[tuple[str, str], list[int]](list)
    for exemplar in reversed(corpus.exemplars):
        waiting[exemplar.category, exemplar.text].append(exemplar.id)
    ids = {}
    for there, *same in before[["id", "category", "text"]].itertuples(index=False):
        if not (left := waiting[same[0], same[1]]):
            return None
        ids[left.pop()] = there
    return Known(folder, ids) if [*ids] == sorted(ids) else None  # among equal scores the first text is the best
