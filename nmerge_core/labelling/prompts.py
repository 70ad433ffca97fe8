"""What a labeller is asked about a neuron, and what is read of its answers; the wording is ours, the parts the paper's.

The parts are those of NeuronMerge's Fig. 12: the role, the domains, how to judge, a relevance from 1 to 5, the form of
the reply, and the excerpts. Two things differ. The paper asks about each of the ten excerpts by itself, which is ten
requests a neuron; here one request has all ten and a line of the reply is about each. And the paper shows the tokens
that fire alone; here they are marked within the words around them, as the words before them are what excites a neuron.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nmerge_core.classification.categories import GENERAL

VERSION = 1  # of the wording, which results hang on
_LONGEST = 300  # characters of an explanation
_THOUGHT = "</think>"  # ends what a model that thinks before it answers has put before the answer
_GAP = r"[^\w\n]"  # what may stand between the words of a line
_MARKUP = re.compile(r"[*`#>]+")


def label_prompt(categories: Sequence[str], excerpts: Sequence[str]) -> str:
    """Ask for a domain and a relevance of each excerpt, and for what the neuron fires on.

    Args:
        categories: the domains, General first.
        excerpts: texts with marked tokens (`Excerpt.marked`).
    """
    general, others = categories[GENERAL], categories[GENERAL + 1 :]
    return f"""You study single neurons of a language model. A neuron fires on some tokens of a text. Below are \
excerpts on which one neuron fires most. Tell which domain each of them relates the neuron to.

Domains:
{_listed(others)}
- {general}: whatever the others do not cover

Excerpts, the tokens on which the neuron fires marked «so»:
{_numbered(excerpts)}

How to judge:
- A neuron sees only what stands before a token: judge a marked token by the words before it, not by those after it.
- Judge the marked tokens, not what the whole text is about.
- Relevance is 1 (minimal), 2 (low), 3 (moderate), 4 (high) or 5 (very high).

Reply with one line for each excerpt, its number, a domain and the relevance, then with one line that says in a few \
words what the neuron fires on. Write nothing else:
1: DOMAIN RELEVANCE
fires on: FEW WORDS"""


def detection_prompt(explanation: str, texts: Sequence[str]) -> str:
    """Ask which of some texts excite a neuron that is explained so."""
    return f"""A neuron of a language model is said to fire on this: {json.dumps(explanation, ensure_ascii=False)}

Texts:
{_numbered(texts)}

On which of these texts does the neuron fire? Reply with one line of their numbers, or none. Write nothing else:
texts: NUMBERS"""


@dataclass(frozen=True)
class Said:
    """What an answer says of a neuron: domain and relevance of the excerpts that it has a line for; an explanation."""

    excerpts: Mapping[int, tuple[str, int]]
    explanation: str

    @property
    def scores(self) -> dict[str, int]:
        """The summed relevance of each domain that was named (App. D.4)."""
        found = Counter[str]()
        for category, relevance in self.excerpts.values():
            found[category] += relevance
        return dict(found)

    def category(self, general: str) -> str:
        """Return the domain of the highest sum, General where several have it; empty where no line could be read."""
        scores = self.scores
        first = [category for category, score in scores.items() if score == max(scores.values())]
        return first[0] if len(first) == 1 else general if first else ""


def read_labels(answer: str, categories: Sequence[str], excerpts: int) -> Said:
    """Read the answer to a `label_prompt`; what cannot be read is left out, never guessed.

    A line is passed over where its number, domain or relevance is none that was asked for, and both of two that differ
    about one excerpt.
    """
    plain = _plain(answer)
    names = {name.casefold(): name for name in categories}
    domain = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    line = re.compile(
        rf"^{_GAP}*(?:excerpt )?(\d+){_GAP}+({domain}){_GAP}+(?:relevance{_GAP}+)?([1-5])\b(?![.–-]?\d)", re.I | re.M
    )
    found: dict[int, set[tuple[str, int]]] = {}
    for number, name, relevance in line.findall(plain):
        if 1 <= int(number[:6]) <= excerpts:
            found.setdefault(int(number) - 1, set()).add((names[name.casefold()], int(relevance)))
    explained = re.search(rf"^{_GAP}*fires on *[:=-]{_GAP}*(\S.*)$", plain, re.I | re.M)
    explanation = explained[1].strip()[:_LONGEST] if explained else ""
    return Said({number: each.pop() for number, each in sorted(found.items()) if len(each) == 1}, explanation)


def read_detection(answer: str, texts: int) -> frozenset[int] | None:
    """Read the answer to a `detection_prompt`: which texts, from 0; None where it says nothing, or several things."""
    numbers_or_none = rf"^{_GAP}*(?:texts{_GAP}+)?((?:\d+{_GAP}+(?:and{_GAP}+)?)*\d+|none){_GAP}*$"
    lines = re.findall(numbers_or_none, _plain(answer), re.I | re.M)
    found = {frozenset(int(number[:6]) - 1 for number in re.findall(r"\d+", line)) for line in lines}
    if len(found) != 1 or not (numbers := found.pop()) <= set(range(texts)):
        return None
    return numbers


def _plain(answer: str) -> str:
    """Return an answer without thoughts before it and without Markdown."""
    return _MARKUP.sub("", answer.rpartition(_THOUGHT)[2])


def _listed(names: Sequence[str]) -> str:
    return "\n".join(f"- {name}" for name in names)


def _numbered(texts: Sequence[str]) -> str:
    """Number texts, each quoted on a line of its own, so that none of them can be taken for what is asked."""
    return "\n".join(f"{number}. {json.dumps(text, ensure_ascii=False)}" for number, text in enumerate(texts, 1))
