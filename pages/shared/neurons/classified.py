"""How far the classification of a family's models is: what can be shown, and what is missing, offered all at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import streamlit as st

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.classification.classification import comparable
from nmerge_core.corpus.corpus import is_of_images
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.runs.folder import Run
from pages.shared.frame.estimates import told_time
from pages.shared.frame.older import listed, older_run, reasons
from pages.shared.frame.page import empty_state, lack, link
from pages.shared.frame.runs import ended, run_panel, start_all
from pages.shared.neurons.chosen import classification_runs, classify_parameters, finished, opened

TOKENIZERS = ("*tokenizer*.json", "*.model", "*.tiktoken", "vocab.json", "vocab.txt")  # files, one of which is needed


@dataclass(frozen=True)
class Classified:
    """How far the classification of a family's models is, by label, the base first."""

    runs: Mapping[str, Run | None]  # of today's models and corpus; None where it was never begun
    older: Mapping[str, Run]  # finished, of earlier ones, where those of today are not

    @cached_property
    def done(self) -> dict[str, Run]:
        """The runs whose results are there."""
        return finished(self.runs)

    @cached_property
    def active(self) -> dict[str, Run]:
        """The runs that wait or go."""
        return {label: run for label, run in self.runs.items() if run is not None and run.status().active}

    @cached_property
    def missing(self) -> list[str]:
        """The models that nothing of today is there for, nor on its way: never begun, or ended before it was done."""
        return [label for label in self.runs if label not in self.done and label not in self.active]

    @cached_property
    def there(self) -> dict[str, Run]:
        """What can be shown: finished runs, older ones where there is no other."""
        found = {**self.older, **self.done}
        return {label: found[label] for label in self.runs if label in found}

    @cached_property
    def usable(self) -> dict[str, Run]:
        """What of it can be shown beside the base's."""
        found = self.there
        first = found.get("base") or next(iter(found.values()), None)
        return {label: run for label, run in found.items() if first and comparable(opened(first), opened(run))}

    def only(self, label: str) -> "Classified":
        """The same of one model."""
        return Classified({label: self.runs[label]}, {name: run for name, run in self.older.items() if name == label})


def classified(family: Family) -> Classified:
    """Look up the classification of each model of a family, without starting any."""
    asked = {member.label: classify_parameters(family, member) for member in family.members}
    runs = classification_runs(family)
    older = {label: older_run("classify", asked[label]) for label in asked if label not in finished(runs)}
    return Classified(runs, {label: run for label, run in older.items() if run is not None})


def classify_missing(family: Family, found: Classified, key: str) -> None:
    """Say which models are not classified and offer all of them by one button; show how far those are that go."""
    asked = {m.label: classify_parameters(family, m) for m in family.members if m.label in found.runs}
    unread = [label for label in found.missing if label not in found.there]
    mute = tell_untokenised(family, unread) if unread and not _of_images(family.corpus or "") else []
    missing = [label for label in found.missing if label not in mute]
    if missing:
        every = f"all {len(missing)} models" if len(missing) == len(asked) > 1 else style.counted(len(missing), "model")
        time = told_time("classify", [asked[label] for label in missing])
        why = reasons(missing, found.older, asked, "Not classified yet")
        text = f"{why} Each model reads the corpus once{time}; results are kept."
        if empty_state(text, f"Classify {every}", key=key):
            extra = {name: st.session_state.get(f"{key}_{name}", False) for name in ("statistics", "layerwise")}
            start_all("classify", {f"Classify {label}": asked[label] | extra for label in missing})
        st.checkbox(
            "Statistics of every neuron too",
            key=f"{key}_statistics",
            help="In the same pass what each neuron is like over all tokens: its largest and smallest activation, "
            "mean, variance, skew and kurtosis, how often it is positive, the signs of gate and up, and a histogram. "
            "It takes about a tenth longer.",
        )
        st.checkbox(
            "One layer in memory at a time",
            key=f"{key}_layerwise",
            help="For a model larger than the memory: the texts go through one layer after the other, and no more than "
            "one layer's weights are read at a time. The categories are the same. It is done by itself where a whole "
            "model has no room.",
        )
    going = sorted(found.active.values(), key=lambda run: run.status().state != "running")
    for run in going:
        if not run_panel(run):  # one that has ended this moment draws nothing that would look again
            break
    if len(going) > 1:
        st.caption(f"Then {style.counted(len(going) - 1, 'more model')}.")
    for label in missing:
        last = found.runs[label]
        if last is not None and (status := last.status()).state in ("failed", "interrupted", "damaged"):
            st.error(ended(last, status))


def tell_untokenised(family: Family, labels: Sequence[str]) -> list[str]:
    """Say which of some models have no tokenizer, without which they read no text; return them."""
    mute = [member.label for member in family.members if member.label in labels and not _reads(member.reference)]
    if mute:
        with lack(
            f"No tokenizer: {listed(mute)}. A model without one reads no text: copy the files of another's beside "
            "its weights."
        ):
            link("pages/1_Models.py", "Look at the models", "arrow_forward", family)
    return mute


def _of_images(corpus: str) -> bool:
    """Tell whether a corpus is of images; one that cannot be opened is told of by what reads it."""
    try:
        return is_of_images(corpus)
    except InputError:
        return False


def _reads(reference: str) -> bool:
    """Tell whether a model has a tokenizer; one that cannot be opened says by itself what it lacks."""
    try:
        folder = open_checkpoint(reference).folder
    except InputError:
        return True
    return any(file for pattern in TOKENIZERS for file in folder.glob(pattern))
