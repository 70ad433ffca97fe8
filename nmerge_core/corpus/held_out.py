"""The texts of a corpus that models are judged by, and what has seen them before."""

import hashlib
from dataclasses import dataclass

from nmerge_core.corpus.corpus import Corpus, labelled, load_corpus, read_texts, whole_and_slice
from nmerge_core.errors import InputError

SHARE = 5  # of a corpus that holds out no lines of its own, one text in so many


@dataclass(frozen=True)
class HeldOut:
    """Held-out texts, in each category in an order that their content decides; `said` tells which they are."""

    corpus: Corpus
    said: str


def held_out(reference: str) -> HeldOut:
    """Return the held-out texts of a corpus.

    Of `corpus[:-60]` they are the last 60 of each category, which it leaves out, but texts that also stand in it; of
    `corpus[-60:]` all that it names. A whole corpus holds out nothing: a fifth of each category's texts is taken, those
    of the lowest SHA-256, so that a text stays in or out when lines are moved, and hardly any changes sides when some
    are added.

    Raises:
        InputError: as `load_corpus`; or all that is left out of a category stands in what is not.
    """
    whole, meant = whole_and_slice(reference)
    leaves_out = meant.startswith("[:")
    loaded = load_corpus(f"{whole}[{meant[2:-1]}:]" if leaves_out else reference)
    texts = {
        category: sorted({each.text for each in loaded.exemplars if each.category == category}, key=_digest)
        for category in loaded.categories
    }
    if leaves_out:
        said = f"the last {meant[3:-1]} texts of each category, which {reference} leaves out"
        seen = {text for found in read_texts(whole).values() for text in found[: int(meant[2:-1])]}
        left = {category: [text for text in found if text not in seen] for category, found in texts.items()}
        if twice := sum(map(len, texts.values())) - sum(map(len, left.values())):
            said += f", but those that stand in it too ({twice:,})"
        if none := [category for category, found in left.items() if not found]:
            raise InputError(
                f"corpus {reference}: expected texts of '{none[0]}' among the last {meant[3:-1]} that do not stand "
                "before them too, found none; take texts out that are there twice"
            )
        texts = left
    elif meant:
        said = f"the texts that {reference} names"
    else:
        texts = {category: found[: max(1, len(found) // SHARE)] for category, found in texts.items()}
        said = "a fifth of each category's texts, which whatever reads the whole corpus has seen"
    return HeldOut(labelled(loaded.reference, texts), said)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
