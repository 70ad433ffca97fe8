"""Measuring what a report shows, part by part: what is there already is read, so that a stopped report goes on."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nmerge_core.ablation import category_neurons, plan
from nmerge_core.activations.hooks import knock_out
from nmerge_core.activations.store import open_classification
from nmerge_core.classification import classify, compare, neuron_categories
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.inheritance.measure import inherited
from nmerge_core.inputs import Places
from nmerge_core.loading import LanguageModel, load_model
from nmerge_core.merging.plan.coefficients import solve_coefficients
from nmerge_core.merging.plan.kept import Kept, Measurement
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.nonlinearity import measure as measure_nonlinearity
from nmerge_core.progress import Progress
from nmerge_core.reports.budget import Budget
from nmerge_core.reports.findings import BASE, Findings
from nmerge_core.reports.parts import Parts
from nmerge_core.reports.steps import steps
from nmerge_core.reports.subjects import Score, Subject, owned_by_gain
from nmerge_core.reports.variants import Plan, Variant
from nmerge_core.search.merging import Merges
from nmerge_core.similarity import cosine

FUNCTIONAL, RANDOM = "functional", "random"
_SHOWN = 160  # characters of a text that shows what excites a neuron


@dataclass
class Measuring:
    """One report on its way: what it has, what it keeps, and how far it is.

    `found` grows table by table, so that what is there can be shown whenever the report is stopped.
    """

    found: Findings
    scores: Sequence[tuple[Subject, Score]]
    parts: Parts
    places: Places
    device: str
    kept: Kept
    progress: Progress
    done: int = 0
    total: int = 0

    @property
    def family(self) -> Family:
        """The family."""
        return self.found.family

    @property
    def budget(self) -> Budget:
        """How much is measured."""
        return self.found.budget

    @contextmanager
    def step(self, name: str) -> Iterator[Progress]:
        """Tell of one step of the whole; what it tells itself says how much of it is done."""

        def told(stage: str, done: float, total: float, unit: str = "") -> None:
            within = self.done + min(0.99, done / max(total, 1))
            self.progress("Report", within, self.total, f"measurements ({name})")

        told(name, 0, 1)
        yield told
        self.done += 1
        self.progress("Report", self.done, self.total, "measurements")

    def run(self) -> None:
        """Measure everything that the family allows, in the order in which later parts need earlier ones."""
        self.total = self._count()
        folders = self._classified()
        self._weights()
        self._stand_alone()
        self._knock_out(folders)
        self._linearity(folders)
        self._merges(folders)

    def _count(self) -> int:
        found = self.found
        members = len(self.family.members)
        proportions, repeats = self.budget.proportions, self.budget.repeats
        draws = 2 * len(proportions) * repeats - (repeats - 1) * (1.0 in proportions)  # a whole category is drawn once
        knocked = len(self._knocked()) * draws
        merges = len(list(found.plan.merges(lambda several: several[0])))
        texts = (members + 2) if self.family.corpus else 0
        return 3 + texts + (members + merges + knocked if self.scores else 0)

    def print_of(self, neurons: Path) -> str:
        """Return what tells a classification from others."""
        return self.places.classification(str(neurons))[1]

    # What the weights alone tell.

    def _weights(self) -> None:
        base, models = self.family.base, {model.label: model.reference for model in self.family.models}
        with self.step("cosine similarity") as told:
            self._tell("cosine", lambda: self.parts.frame("cosine", {base: models}, lambda: self._cosines(told)))
        with self.step("steps of tuning") as told:
            self._tell("steps", lambda: self.parts.frame("steps", {base: models}, lambda: steps(base, models, told)))
        with self.step("changes of neurons") as told:
            self._tell("changes", lambda: self.parts.frame("changes", {base: models}, lambda: self._changes(told)))

    def _cosines(self, told: Progress) -> pd.DataFrame:
        summary = cosine(self.family.base, self.family.references, progress=told).summary
        return summary.assign(model=_called(summary["model"], [model.label for model in self.family.models]))

    def _changes(self, told: Progress) -> pd.DataFrame:
        first, *_ = references = self.family.references
        frame = inherited(first, self.family.base, references, progress=told)
        labels = [model.label for model in self.family.models]
        return frame[["layer", "neuron", "change"]].assign(model=_called(frame["model"], labels))

    # What the texts of the corpus tell.

    def _classified(self) -> dict[str, Path]:
        """Classify every model; return the folders by label, none where there is no corpus or models have no MLPs."""
        corpus = self.family.corpus
        if corpus is None:
            self._lack("This family names no corpus, whose texts tell what a neuron reacts to.", "neurons", "counts")
            self._lack("This family names no corpus.", "linearity", "exemplars")
            return {}
        folders, started = {}, time.monotonic()
        try:
            for member in self.family.members:
                with self.step(f"neurons of {member.label}") as told:
                    folders[member.label] = self._classification(member.reference, corpus, told)
                if member.label == BASE:
                    seconds = open_classification(folders[BASE]).meta.get("seconds", time.monotonic() - started)
                    self.found = replace(self.found, classifying=float(seconds))
        except InputError as error:
            self._lack(str(error), "neurons", "counts", "linearity", "exemplars")
            return {}
        opened = {label: open_classification(folder) for label, folder in folders.items()}
        frames = [neuron_categories(each).assign(model=label) for label, each in opened.items()]
        counts = compare(list(folders.values()), list(folders))
        exemplars = _exemplars(opened[BASE])
        self.found = replace(self.found, neurons=pd.concat(frames), counts=counts, exemplars=exemplars)
        return folders

    def _classification(self, reference: str, corpus: str, told: Progress) -> Path:
        asked = {"model": reference, "corpus": corpus, "device": self.device}
        (there,) = self.kept([Measurement("classify", asked)])
        if there is not None:
            return there
        return self.parts.folder_of(
            "neurons", asked, lambda out: classify(reference, corpus, out, device=self.device, progress=told)
        )

    def _linearity(self, folders: Mapping[str, Path]) -> None:
        if not folders or self.family.corpus is None:
            return
        frames = []
        for grouping in (FUNCTIONAL, RANDOM):
            with self.step(f"linearity, {grouping} groups") as told:
                frame = self._nonlinearity(folders[BASE], grouping, told)
                frames.append(frame.assign(grouping=grouping))
        self.found = replace(self.found, linearity=pd.concat(frames, ignore_index=True))

    def _nonlinearity(self, neurons: Path, grouping: str, told: Progress) -> pd.DataFrame:
        family, budget = self.family, self.budget
        if grouping == RANDOM:
            shuffled = {"neurons": self.print_of(neurons)}
            neurons = self.parts.folder_of("shuffled", shuffled, partial(_shuffle, neurons))
        asked: dict[str, Any] = {
            "base": family.base,
            "models": family.references,
            "corpus": family.corpus,
            "samples": budget.samples,
            "alphas": budget.alphas,
            "device": self.device,
        }
        frame = self.parts.frame(
            "linearity",
            asked | {"neurons": self.print_of(neurons)},
            lambda: measure_nonlinearity(**asked, neurons=str(neurons), progress=told),
        )
        return frame.assign(model=_called(frame["model"], [model.label for model in family.models]))

    # What the models answer.

    def _stand_alone(self) -> None:
        """Score the base and the fine-tunes, and see what each was made for."""
        subjects = [subject for subject, _ in self.scores]
        if not subjects:
            self._lack("This family names neither tasks nor a corpus: there is nothing to judge models by.", "scores")
            self._lack("This family names neither tasks nor a corpus.", "knockout", "times")
            return
        self.found = replace(self.found, subjects=tuple(subjects))
        for member in self.family.members:
            with self.step(f"scores of {member.label}") as told:
                asked = self._asked(subjects) | {"model": member.reference}
                make = partial(self._scored_alone, member.reference, told)
                frame = self.parts.frame("scores", asked, make)
                self._keep_scores(member.label, frame)
        labels = [model.label for model in self.family.models]
        gains = {
            (label, subject.name): self.found.mean(label, [subject]) - self.found.mean(BASE, [subject])
            for label in labels
            for subject in subjects
        }
        self.found = replace(self.found, subjects=tuple(owned_by_gain(subjects, gains)))

    def _knocked(self) -> list[str]:
        """Return the categories whose neurons are silenced: those of fine-tunes."""
        return [model.category for model in self.family.models if model.category] if self.family.corpus else []

    def _knock_out(self, folders: Mapping[str, Path]) -> None:
        if not folders or not self.scores:
            return
        classification = open_classification(folders[BASE])
        loaded: list[LanguageModel] = []  # none unless something is to be measured
        frames = []
        for model in self.family.models:
            own = [subject for subject in self.found.subjects if subject.owner == model.label]
            if not own or model.category not in classification.categories:
                continue
            members = category_neurons(classification, model.category, classification.layers)
            trials = plan(
                members,
                classification.widths,
                model.category,
                self.budget.proportions,
                range(self.budget.repeats),
            )
            for trial in trials:
                neurons = {str(layer): own_neurons.tolist() for layer, own_neurons in trial.neurons.items()}
                asked = self._asked(own) | {"model": self.family.base, "neurons": neurons}
                with self.step(f"{trial.size} {trial.group} neurons off") as told:

                    def measure(off: Mapping[int, Any] = trial.neurons, own: Sequence[Subject] = own) -> pd.DataFrame:
                        if not loaded:
                            loaded.append(self._load(self.family.base))
                        with knock_out(loaded[0].model, loaded[0].architecture, off):
                            return self._scored(loaded[0], told, own)

                    frame = self.parts.frame("knockout", asked, measure)
                facts = {"category": model.category, "group": trial.group, "proportion": trial.proportion}
                frames.append(frame.assign(**facts, seed=trial.seed, neurons=trial.size))
        if frames:
            self.found = replace(self.found, knockout=pd.concat(frames, ignore_index=True))
        else:
            self._lack("No category of the corpus is that of a fine-tune with a task.", "knockout")

    def _merges(self, folders: Mapping[str, Path]) -> None:
        if not self.scores:
            return
        found, times = self.found, []
        if not folders:
            self.found = found = replace(found, texts=False)
        merging = _Merging(self, str(folders[BASE]) if folders else None)
        for variant in found.plan.merges(lambda several: self.found.best(several)):
            with self.step(f"{variant.title}: {' + '.join(variant.models)}") as told:
                frame = merging.scored(variant, told)
            self._keep_scores(variant.key, frame[["subject", "problem", "value"]])
            times.append({"variant": variant.key, **frame[["merging", "scoring"]].iloc[0]})
            self.found = replace(self.found, times=pd.DataFrame(times))

    def _asked(self, subjects: Sequence[Subject]) -> dict[str, Any]:
        return {"subjects": {each.name: each.count for each in subjects}, "device": self.device}

    def _load(self, reference: str) -> LanguageModel:
        return load_model(reference, self.device)

    def _scored_alone(self, reference: str, told: Progress) -> pd.DataFrame:
        return self._scored(self._load(reference), told)

    def _scored(
        self, language_model: LanguageModel, told: Progress, only: Sequence[Subject] | None = None
    ) -> pd.DataFrame:
        """Score a model on subjects; all by default."""
        wanted = None if only is None else {subject.name for subject in only}
        chosen = [(subject, score) for subject, score in self.scores if wanted is None or subject.name in wanted]
        frames = []
        for place, (subject, score) in enumerate(chosen):

            def within(stage: str, done: float, total: float, unit: str = "", place: int = place) -> None:
                told(stage, place + min(1.0, done / max(total, 1)), len(chosen))

            values = score(language_model, within)
            own = {"subject": subject.name, "problem": range(len(values)), "value": values}
            frames.append(pd.DataFrame(own))
        return pd.concat(frames, ignore_index=True)

    def _keep_scores(self, key: str, frame: pd.DataFrame) -> None:
        before = [] if self.found.scores is None else [self.found.scores]
        scores = pd.concat([*before, frame.assign(variant=key)], ignore_index=True)
        self.found = replace(self.found, scores=scores)

    def _tell(self, name: str, make: Callable[[], pd.DataFrame]) -> None:
        """Keep a table, or why it cannot be made."""
        try:
            self.found = replace(self.found, **{name: make()})
        except InputError as error:
            self._lack(str(error), name)

    def _lack(self, why: str, *names: str) -> None:
        self.found = replace(self.found, lacks={**self.found.lacks, **dict.fromkeys(names, why)})


class _Merging:
    """The merges of a report, in memory one after the other, each scored on what its models were made for."""

    def __init__(self, measuring: Measuring, neurons: str | None) -> None:
        """Begin with none."""
        self._of, self._neurons = measuring, neurons
        self._print = measuring.print_of(Path(neurons)) if neurons else ""
        self._merges: Merges | None = None

    def scored(self, variant: Variant, told: Progress) -> pd.DataFrame:
        """Return subject, problem, value, and in every row the seconds of merging and scoring."""
        of = self._of
        recipe = variant.recipe(of.family, of.family.corpus, self._neurons, of.budget.samples)
        named = recipe | {"parameters": recipe["parameters"] | {"neurons": self._print}}
        subjects = self._subjects(variant)

        def make() -> pd.DataFrame:
            read = load_recipe(recipe)
            if self._merges is None:
                self._merges = Merges(read, of.device, "auto", self._solved)
            started = time.monotonic()
            with self._merges.merged(read, of.parts.folder / ".merging", told) as language_model:
                merged = time.monotonic()
                frame = of._scored(language_model, told, subjects)
            return frame.assign(merging=merged - started, scoring=time.monotonic() - merged)

        try:
            return of.parts.frame("merge", of._asked(subjects) | {"recipe": named}, make)
        finally:
            shutil.rmtree(of.parts.folder / ".merging", ignore_errors=True)

    def _subjects(self, variant: Variant) -> list[Subject]:
        """Return what its models were made for; all, where the papers look at other tasks as well."""
        found, whole = self._of.found, Plan.data_free(self._of.found.plan, self._of.found.plan.labels)
        if variant.method == "subspace" or variant.key in {each.key for each in whole}:
            return list(found.subjects)
        return [subject for subject in found.subjects if subject.owner in variant.models]

    def _solved(self, measurements: Sequence[Measurement]) -> list[Path | None]:
        """Find what merges go by in finished runs, or among the parts of the report, where it is kept once solved."""
        found = self._of.kept(measurements)
        return [there or self._solve(each) for there, each in zip(found, measurements, strict=True)]

    def _solve(self, measurement: Measurement) -> Path | None:
        if measurement.kind != "coefficients":
            return None
        asked = dict(measurement.parameters)
        named = asked | {"neurons": self._print}

        def make(out: Path) -> None:
            solved = solve_coefficients(**asked)
            out.mkdir()
            solved.write(out)
            for warning in solved.warnings:
                logging.warning(warning)

        return self._of.parts.folder_of("coefficients", named, make)


def _called(names: pd.Series, labels: Sequence[str]) -> pd.Series:
    """Return the labels of models whose short names stand in the order in which they were given."""
    return names.map(dict(zip(dict.fromkeys(names), labels, strict=True)))


def _shuffle(neurons: Path, out: Path) -> None:
    """Copy a classification, its categories dealt anew within each layer (the control of Table 4)."""
    rng, part = np.random.default_rng(0), out.with_name(f".{out.name}")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(neurons, part, ignore=shutil.ignore_patterns("scores.safetensors"))
    frame = pd.read_parquet(neurons / "neurons.parquet")
    frame["category"] = frame.groupby("layer")["category"].transform(lambda own: rng.permutation(own.to_numpy()))
    frame.to_parquet(part / "neurons.parquet", index=False)
    part.rename(out)


def _exemplars(classification: Any) -> pd.DataFrame:
    """Return, per category, the neuron of the first and of the last layer that most votes agree on, with its texts."""
    neurons, texts = classification.neurons(), classification.exemplars().set_index("id")["text"]
    rows = []
    for category in classification.categories:
        own = neurons[neurons["category"] == category]
        for layer in dict.fromkeys((classification.layers[0], classification.layers[-1])):
            here = own[own["layer"] == layer]
            if not here.empty:
                neuron = here.sort_values([f"count_{category}", "neuron"], ascending=[False, True]).iloc[0]
                text = " ".join(str(texts[neuron["exemplars"][0]]).split())[:_SHOWN]
                rows.append((category, layer, int(neuron["neuron"]), int(neuron[f"count_{category}"]), text))
    return pd.DataFrame(rows, columns=["category", "layer", "neuron", "votes", "text"])
