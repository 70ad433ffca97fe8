"""One neuron on texts, in every model: what it is there, and its texts shaded (NeuronMerge Figs. 2b, 11)."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nmerge_core.figures import style
from nmerge_core.figures.texts import Cell, chip, grid, titled, votes

CONTEXTS: Mapping[str, int | None] = {"±5": 5, "±16": 16, "whole": None}  # tokens either side of the strongest one
CONTEXT = "±16"  # where nobody asks for another
PLAIN = 240  # characters of a text shown before its tokens are known

Answers = Mapping[str, Sequence[Mapping[str, Any]]]  # model → for each text its "tokens" and the "values" of φ on them


@dataclass(frozen=True)
class Seen:
    """A neuron as one model has it: its category, who voted, and all exemplars with their scores, strongest first."""

    label: str
    category: str
    votes: Sequence[str]
    ids: Sequence[int]
    scores: Sequence[float]

    @property
    def peak(self) -> float:
        """The highest score over all texts."""
        return self.scores[0]

    def head(self, colours: Mapping[str, str]) -> str:
        """HTML for the top of the model's column."""
        return (
            f"{titled(self.label)} {chip(self.category, colours)}<br>"
            f"{votes(self.votes, colours)} <small>highest score {style.significant(self.peak)}</small>"
        )

    def note(self, exemplar: int) -> str:
        """The rank and score of an exemplar."""
        place = self.ids.index(exemplar)
        return f"number {place + 1:,} · score {style.significant(self.scores[place])}"

    def overlap(self, other: "Seen") -> float:
        """The share of its voting exemplars that vote in the other too."""
        own, others = (set(each.ids[: len(each.votes)]) for each in (self, other))
        return len(own & others) / max(len(own), 1)


def chosen_texts(
    models: Sequence[Seen], texts: pd.DataFrame, answers: Answers, colours: Mapping[str, str], window: int | None
) -> str:
    """Texts of a corpus as every model reads them: plain where there is no answer (yet).

    Args:
        models: The neuron as each model has it.
        texts: Columns id, category, text, and title, why each is there.
        answers: The tokens and activations of each text.
        colours: The colour of each category.
        window: Tokens to keep either side of the strongest one; all if None.
    """
    rows = []
    for rank, text in enumerate(texts.itertuples()):
        plain = {"tokens": [text.text[:PLAIN]], "values": []}
        read = {seen.label: answers[seen.label][rank] if seen.label in answers else plain for seen in models}
        cells = [
            Cell(seen.label, read[seen.label]["tokens"], read[seen.label]["values"], seen.peak, seen.note(text.id))
            for seen in models
        ]
        rows.append((f"{html.escape(text.title)} {chip(text.category, colours)}", colours[text.category], cells))
    return grid([seen.head(colours) for seen in models], rows, window)


def own_texts(models: Sequence[Seen], texts: pd.DataFrame, answers: Answers, colours: Mapping[str, str]) -> str:
    """Texts of the reader's own, whole, as every model that answered reads them; arguments as of `chosen_texts`."""
    answering = [seen for seen in models if seen.label in answers]
    rows = []
    for rank, text in enumerate(texts.itertuples()):
        cells = []
        for seen in answering:
            read = answers[seen.label][rank]
            score = max(map(abs, read["values"]), default=0.0)
            cells.append(
                Cell(seen.label, read["tokens"], read["values"], seen.peak, f"score {style.significant(score)}")
            )
        rows.append(("", colours[text.category], cells))
    return grid([titled(seen.label) for seen in answering], rows)
