"""What a labeller is shown of a neuron: excerpts with the tokens on which it fires, and texts to tell apart."""

from dataclasses import dataclass
from itertools import groupby

SHOWN = 10  # exemplars that a labeller is shown (NeuronMerge App. D.4)
HELD_OUT = 5  # exemplars of each kind, exciting and not, by which an explanation is scored
QUANTILE = 0.9  # of |φ| over all tokens of the corpus: a neuron fires where it is above (App. D.4)
BEFORE, AFTER = 24, 7  # tokens of an excerpt before and after the one at which |φ| is largest

Neuron = tuple[int, int]
"""Layer and number, both from 0."""


@dataclass(frozen=True)
class Excerpt:
    """Some tokens of a text in their order, and on which of them a neuron fires."""

    pieces: tuple[str, ...]
    fires: tuple[bool, ...]

    @property
    def text(self) -> str:
        """The tokens as they stand in the text."""
        return "".join(self.pieces)

    @property
    def marked(self) -> str:
        """The same with «» around what the neuron fires on, neighbours together."""
        runs = groupby(zip(self.pieces, self.fires, strict=True), key=lambda pair: pair[1])
        parts = ((fires, "".join(piece for piece, _ in run)) for fires, run in runs)
        return "".join(f"«{part}»" if fires else part for fires, part in parts)


@dataclass(frozen=True)
class Shown:
    """What is shown of a neuron: the excerpts that excite it most; and others, with which of them excite it too."""

    neuron: Neuron
    excerpts: tuple[Excerpt, ...]
    held_out: tuple[Excerpt, ...]
    excited: frozenset[int]
