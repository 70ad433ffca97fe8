"""One neuron as JSON: what is stored of it in every model."""

from collections.abc import Sequence
from typing import Any

from nmerge_core.activations.store import Classification
from nmerge_core.figures.explorer import Seen
from nmerge_core.neuron.seen import reached


def record(
    opened: Sequence[Classification], models: Sequence[Seen], layer: int, neuron: int, count: int, note: str = ""
) -> dict[str, Any]:
    """Return layer, neuron and, of each model, its category, votes, and strongest texts with score and token.

    A user's `note` on the neuron is there where there is one.
    Of images the text is the name, and there is the patch, [row, column] from 0; null of a token that stands for none.
    """
    corpus = opened[0].exemplars().set_index("id")
    found = []
    for each, seen in zip(opened, models, strict=True):
        tokens = reached(each, layer, neuron)
        texts = [
            {
                "exemplar": id,
                "category": str(corpus.at[id, "category"]),
                "score": score,
                "token": tokens.get(id),
                **({"patch": each.grid.patch(tokens[id]) if id in tokens else None} if each.grid else {}),
                "text": str(corpus.at[id, "text"]),
            }
            for id, score in zip(seen.ids[:count], seen.scores[:count], strict=True)
        ]
        found.append(
            {
                "name": seen.label,
                "model": each.meta["model"],
                "category": seen.category,
                "votes": {name: list(seen.votes).count(name) for name in dict.fromkeys(seen.votes)},
                "texts": texts,
            }
        )
    return {"layer": layer, "neuron": neuron, **({"note": note} if note else {}), "models": found}
