"""Labelling: excerpts of some neurons are cut out, a labeller is asked about each, and its explanations are scored."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from nmerge_core.activations.store import Classification, open_classification
from nmerge_core.checkpoints import fingerprint, label, open_checkpoint
from nmerge_core.classification.categories import GENERAL
from nmerge_core.errors import InputError
from nmerge_core.files.folders import write_meta
from nmerge_core.labelling.asked import DETECTION, LABEL, Asked, append, by_question, read_asked
from nmerge_core.labelling.excerpts import read_excerpts
from nmerge_core.labelling.labeller import check_labeller, open_labeller
from nmerge_core.labelling.prompts import detection_prompt, label_prompt, read_detection, read_labels
from nmerge_core.labelling.reply import Heed, Labeller
from nmerge_core.labelling.sample import choose_neurons
from nmerge_core.labelling.shown import Neuron, Shown
from nmerge_core.labelling.tables import LABELS
from nmerge_core.loading import load_model
from nmerge_core.machine import release_memory
from nmerge_core.progress import Progress, silent
from nmerge_core.version import __version__


def label_neurons(
    model: str,
    neurons: str,
    by: str,
    out: Path,
    *,
    count: int = 100,
    each_category: bool = False,
    lists: Mapping[str, Any] | None = None,
    seed: int = 0,
    key_from: str | None = None,
    answer_tokens: int = 512,
    device: str = "auto",
    progress: Progress = silent,
) -> None:
    """Ask a labeller for a category and an explanation of neurons, and for the texts that an explanation means.

    Writes labels.csv, asked.jsonl (every question and answer, as they come: the same call goes on after the last) and
    meta.json. A neuron's label is the category of the highest summed relevance over its excerpts, General where several
    have it; an answer that cannot be read is kept and gives no label. An explanation is scored by detection: the
    labeller tells which of ten texts that it was not shown excite the neuron, of which half do.

    Args:
        model: the model that was classified.
        neurons: its classification.
        by: a chat model, or NAME@URL of an endpoint, to which excerpts of the corpus are sent then.
        out: the folder to write into, which is there.
        count: neurons in all.
        each_category: draw as many of each category.
        lists: neurons to label in place of a draw.
        seed: of all draws.
        key_from: the environment variable with an endpoint's key.
        answer_tokens: the longest answer.
        device: of models that run on this machine.
        progress: told of exemplars, then of neurons.

    Raises:
        InputError: the classification is not of this model, or a labeller cannot be asked.

    Source: NeuronMerge App. D.4 and Fig. 12; `prompts` says in what the questions differ. Detection is Bills et al.'s
    idea (2023) in the form that compares texts; the paper scores no explanations.
    """
    found, checkpoint = open_classification(neurons), open_checkpoint(model)
    found.check_neurons_of(label(model), checkpoint.architecture)
    if found.meta.get("model_fingerprint") != fingerprint(checkpoint):
        raise InputError(f"{found.folder}: expected a classification of {label(model)}, found one of {found.label}")
    check_labeller(by, key_from)
    chosen = choose_neurons(
        found, checkpoint.architecture, count=count, each_category=each_category, lists=lists, seed=seed
    )
    loaded = load_model(model, device, found.meta["run_dtype"])
    shown = list(read_excerpts(loaded, found, chosen, seed, progress))
    del loaded
    release_memory()
    labeller = open_labeller(by, key_from, answer_tokens, device)
    for each in shown:
        labeller.check(_question(found, each))
    rows = []
    categories = found.neurons().set_index(["layer", "neuron"])["category"]
    questioning = _Questioning(labeller, out)
    for done, each in enumerate(shown):
        heed = partial(progress, "Labelling", done, len(shown), "neurons")
        heed()
        rows.append({"category": categories[each.neuron], **_labelled(questioning, found, each, heed)})
    frame = pd.DataFrame(rows)
    frame.insert(0, "neuron", [neuron for _, neuron in chosen])
    frame.insert(0, "layer", [layer for layer, _ in chosen])
    frame.to_csv(out / LABELS, index=False)
    write_meta(out, {"by": by, "categories": list(found.categories), **questioning.cost(), "version": __version__})
    progress("Labelling", len(shown), len(shown), "neurons")


class _Questioning:
    """Asks what was not asked before, and writes it down."""

    def __init__(self, labeller: Labeller, folder: Path) -> None:
        self._labeller, self._folder = labeller, folder
        self._known = by_question(read_asked(folder))

    def answer(self, neuron: Neuron, about: str, prompt: str, heed: Heed) -> str:
        key = (*neuron, about)
        if key not in self._known or self._known[key].prompt != prompt:
            began = time.monotonic()
            reply = self._labeller.ask(prompt, heed)
            took = round(time.monotonic() - began, 3)
            asked = Asked(*neuron, about, prompt, reply.text, reply.prompt_tokens, reply.answer_tokens, took)
            append(self._folder, asked)
            self._known[key] = asked
        return self._known[key].answer

    def cost(self) -> dict[str, float]:
        """What all answers took together."""
        asked: Sequence[Asked] = list(self._known.values())
        took = ("prompt_tokens", "answer_tokens", "seconds")
        return {"requests": len(asked)} | {name: round(sum(getattr(each, name) for each in asked), 3) for name in took}


def _question(found: Classification, shown: Shown) -> str:
    return label_prompt(found.categories, [excerpt.marked for excerpt in shown.excerpts])


def _labelled(questioning: _Questioning, found: Classification, shown: Shown, heed: Heed) -> dict[str, Any]:
    """Return what labels.csv has of a neuron beside its place and its category by frequency."""
    answer = questioning.answer(shown.neuron, LABEL, _question(found, shown), heed)
    said = read_labels(answer, found.categories, len(shown.excerpts))
    given = said.category(found.categories[GENERAL])
    row = {"label": given, "score": said.scores.get(given), "read": len(said.excerpts), "explanation": said.explanation}
    hits = None
    if said.explanation:
        prompt = detection_prompt(said.explanation, [each.text for each in shown.held_out])
        hits = read_detection(questioning.answer(shown.neuron, DETECTION, prompt, heed), len(shown.held_out))
    if hits is None:
        return row | {"excited": None, "spared": None}
    wrong = len(hits - shown.excited)
    return row | {
        "excited": len(hits & shown.excited),
        "spared": len(shown.held_out) - len(shown.excited) - wrong,
    }
