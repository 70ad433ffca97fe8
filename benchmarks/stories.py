"""What became of single neurons, from a base over its fine-tunes to a merge of them: categories, texts, weights.

    python -m benchmarks.stories demo 2:391 0:465        # the demo family; LAYER:NEURON
    python -m benchmarks.stories FAMILY.yaml 3:333       # a family of your own, which the app then has too

The fine-tunes are merged by TIES (weight 1, density 0.2, λ 1), the merge is classified as they are, and all weights are
compared. It is kept in the cache as runs of the app's own, which shows each neuron at the address that is printed.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pandas as pd

import nmerge_core as nm
from nmerge_core.cache import DEMO, cache_root
from nmerge_core.face.classifications import Classifications
from nmerge_core.face.weights import Cosines, Inherited
from nmerge_core.family import Family, save_family
from nmerge_core.neuron.seen import see
from nmerge_core.runs.here import finished

TEXTS, AROUND = 3, 8  # strongest texts shown of each model, and tokens on either side of the one at which it fires most
BEFORE, AFTER = "base", "merge"


@dataclass(frozen=True)
class Subject:
    """A family with its merge: all classified, how sure that is, the weights of all compared, and what was kept."""

    family: Family
    merge: str  # what the app calls it
    found: Classifications
    support: pd.DataFrame
    cosines: Cosines
    inherited: Inherited

    @property
    def tuned(self) -> list[str]:
        """The fine-tunes' names."""
        return [model.label for model in self.family.models]

    def address(self, layer: int, neuron: int) -> str:
        """Return where the app shows a neuron, with the merge beside."""
        asked = {"family": self.family.name, "layer": layer, "neuron": neuron, "merges": self.merge}
        return f"/Explorer?{urlencode(asked)}"


def subject_of(family: Family) -> Subject:
    """Merge a family, classify it and compare its weights, or take what is there."""
    recipe = {
        "merge_method": "ties",
        "base_model": family.base,
        "models": [{"model": reference} for reference in family.references],
    }
    merged = nm.merge(recipe)
    run = finished("merge", {"recipe": recipe})
    assert run is not None
    beside = {**{model.label: model.reference for model in family.models}, AFTER: str(merged.path)}
    found = nm.classify({BEFORE: family.base, **beside}, corpus=family.corpus or "")
    cosines, inherited = nm.cosine(family.base, beside), nm.inherited(merged, family.base, family)
    return Subject(family, run.title, found, found.confidence(), cosines, inherited)


def means(subject: Subject) -> list[pd.Series]:
    """Return means over all neurons, in percent but for cosines: of each fine-tune's change, and of every two."""
    each = subject.cosines.neurons.query("model in @subject.tuned").groupby("model", observed=True)
    pairs = subject.cosines.between.query("one in @subject.tuned and other in @subject.tuned")
    mutual = pairs.groupby(["one", "other"], observed=True)
    return [
        100 * each["change"].mean(),
        100 * each["parallel"].mean(),
        mutual["cosine"].mean(),
        100 * mutual["opposed"].mean(),
    ]


def shares(subject: Subject) -> pd.DataFrame:
    """Count the neurons by where the fine-tunes have left the base's category, and in how many the merge is of it.

    Columns fine-tunes (all as the base, all of one other category, all of others, some as the base), neurons, as_base
    and as_tuned, the merges with the category of the base, and with that of all fine-tunes.
    """
    by_model = subject.found.neurons().pivot(index=["layer", "neuron"], columns="model", values="category")
    tuned, base, merged = by_model[subject.tuned], by_model[BEFORE], by_model[AFTER]
    stayed, agreed = tuned.eq(base, axis=0), tuned.eq(tuned.iloc[:, 0], axis=0).all(axis=1)
    left = ~stayed.any(axis=1)
    groups = {
        "all as the base": stayed.all(axis=1),
        "all of one other": left & agreed,
        "all of others, not one": left & ~agreed,
        "some as the base": ~left & ~stayed.all(axis=1),
    }
    rows = [
        {
            "fine-tunes": name,
            "neurons": int(own.sum()),
            "as_base": int((own & (merged == base)).sum()),
            "as_tuned": int((own & agreed & (merged == tuned.iloc[:, 0])).sum()),
        }
        for name, own in groups.items()
    ]
    return pd.DataFrame(rows)


def table(subject: Subject, layer: int, neuron: int) -> pd.DataFrame:
    """Return a row per model: category, support, votes, voting texts that are the base's too, change, kept.

    `change` is ‖τ‖ / ‖θ0‖, and `kept` what the merge has of a fine-tune's τ (docs/explorer.md); in percent, as support.
    """
    opened = zip(subject.found.opened, subject.found.labels, strict=True)
    seen = [see(classified, label, layer, neuron) for classified, label in opened]
    support = _of(subject.support, layer, neuron)["support"]
    change = _of(subject.cosines.neurons, layer, neuron)["change"]
    kept = _of(subject.inherited.neurons, layer, neuron)["kept"]
    rows = [
        {
            "model": each.label,
            "category": each.category,
            "support": 100 * support[each.label],
            "votes": ", ".join(f"{each.votes.count(name)} {name}" for name in sorted(set(each.votes))),
            "the base's texts": round(len(each.votes) * each.overlap(seen[0])),
            "change": 100 * change.get(each.label, float("nan")),
            "kept": 100 * kept.get(each.label, float("nan")),
        }
        for each in seen
    ]
    return pd.DataFrame(rows)


def between(subject: Subject, layer: int, neuron: int) -> pd.DataFrame:
    """Return the cosine of every two fine-tunes' changes, and the share of weights that they moved opposite ways."""
    own = subject.cosines.between.query("layer == @layer and neuron == @neuron")
    return own.query("one in @subject.tuned and other in @subject.tuned")[["one", "other", "cosine", "opposed"]]


def texts(subject: Subject, layer: int, neuron: int) -> Iterator[str]:
    """Say of each model which texts excite the neuron most, the tokens around the one marked at which it fires most."""
    for label in subject.found.labels:
        seen = subject.found.explore(layer, neuron, model=label, count=TEXTS, context=None)
        for row, tokens in seen.tokens[seen.tokens["model"] == label].groupby("text"):
            peak = int(tokens["activation"].abs().to_numpy().argmax())
            pieces = [*tokens["token"]]
            before, after = pieces[max(0, peak - AROUND) : peak], pieces[peak + 1 : peak + 1 + AROUND]
            shown = " ".join("".join([*before, "«", pieces[peak], "»", *after]).split())
            score = tokens["activation"].iloc[peak]
            yield f"{label}: {seen.texts['category'].iloc[int(str(row))]}, {score:.2f}: {shown}"


def _of(frame: pd.DataFrame, layer: int, neuron: int) -> pd.DataFrame:
    """Return the rows of one neuron by model."""
    return frame.query("layer == @layer and neuron == @neuron").set_index("model")


def _place(written: str) -> tuple[int, int]:
    layer, neuron = map(int, written.split(":"))
    return layer, neuron


def main() -> None:
    """Tell the stories."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", help="demo, or a family's YAML")
    parser.add_argument("neurons", nargs="*", type=_place, metavar="LAYER:NEURON")
    given: Any = parser.parse_args()
    family = nm.open_family(given.family)
    if family.name != DEMO:
        save_family(family, cache_root() / "families")
    subject = subject_of(family)
    for found in means(subject):
        print(found.to_string(float_format="{:.2f}".format), end="\n\n")
    print(shares(subject).to_string(index=False))
    for layer, neuron in given.neurons:
        print(f"\nlayer {layer}, neuron {neuron}: {subject.address(layer, neuron)}")
        print(table(subject, layer, neuron).to_string(index=False, float_format="{:.1f}".format, na_rep=""))
        print(between(subject, layer, neuron).to_string(index=False, float_format="{:.3f}".format))
        print("\n".join(texts(subject, layer, neuron)))


if __name__ == "__main__":
    main()
