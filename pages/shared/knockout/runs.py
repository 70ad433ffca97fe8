"""The runs of the Knock-out page, one a model: what they lack, what they take, and how to do them elsewhere."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import streamlit as st

from nmerge_core.activations.store import open_classification
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.notebook import Step, literal
from nmerge_core.runs.folder import Run
from pages.shared.frame.estimates import measurements, told_time
from pages.shared.frame.page import command
from pages.shared.frame.tasks import CODE_SWITCH, has_own_code, runs_code, task_name
from pages.shared.knockout.controls import KEEP, MAP, Chosen
from pages.shared.neurons.chosen import opened


@dataclass(frozen=True)
class Runs:
    """What was chosen, and the classification whose neurons are knocked out in each model."""

    chosen: Chosen
    neurons: Mapping[str, Run]

    @cached_property
    def asked(self) -> dict[str, dict[str, Any]]:
        """The parameters of each model's run."""
        return {
            name: {"model": reference, "neurons": self.neurons[name].id, **self.chosen.parameters}
            for name, reference in self.chosen.models.items()
        }

    @property
    def titles(self) -> dict[str, str]:
        """What each model's run is called."""
        chosen, parameters = self.chosen, self.chosen.parameters
        what = {MAP: "Knock-out by layer", KEEP: f"{chosen.category} alone"}.get(
            chosen.view, f"Knock-out of {chosen.category}"
        )
        on = task_name(chosen.task) if chosen.task else "held-out texts"
        return {
            name: f"{what} in {name}, {_layers(parameters['layers'], opened(self.neurons[name]).layers)}, on {on}"
            for name in chosen.models
        }

    @property
    def lacks(self) -> str:
        """What keeps them from starting, in a sentence; empty where nothing does."""
        chosen = self.chosen
        if runs_code(chosen.task) and not chosen.parameters["run_code"]:
            return (
                f"This task runs the programs that the model writes. Switch on “{CODE_SWITCH}” beside it to score it."
            )
        if has_own_code(chosen.task) and not chosen.parameters["allow_task_code"]:
            return "This task runs code of its own. Switch on “Run the task's own code” to score on it."
        if chosen.category and not all(map(self.switched, chosen.models)):
            return "None of these layers has a neuron of this category. Choose more layers, or another category."
        return ""

    def switched(self, model: str) -> int:
        """How many neurons are the category's or list's, of the layers in one model."""
        layers, own = (
            self.chosen.parameters["layers"],
            self.chosen.parameters.get("lists", {}).get(self.chosen.category),
        )
        if own is not None:
            return sum(layer in layers for layer, _ in own)
        return _members(str(self.neurons[model].results), self.chosen.category, tuple(layers))

    def told(self, names: list[str]) -> str:
        """What the runs of some models will do, and how long that takes."""
        asked = [self.asked[name] | {"neurons": str(self.neurons[name].results)} for name in names]
        limit, off = self.chosen.parameters["limit"], ""
        on = style.counted(limit, "problem") if self.chosen.task else f"{style.counted(limit, 'text')} of each category"
        if self.chosen.view != MAP:
            most = style.counted(max(map(self.switched, names)), "neuron")
            off = f" with up to {most} {'kept' if self.chosen.view == KEEP else 'off'},"
        models = "the model" if len(names) == 1 else f"each of {len(names)} models, loaded once,"
        times = f"{max(map(measurements, asked))} times{off}"
        each = " each" if self.chosen.task else ""
        return f"Scores {models} {times} on {on}{each}{told_time(self.chosen.kind, asked)}."

    def commands(self) -> str:
        """A line for a shell for each model."""
        return "\n".join(self._command(name, number) for number, name in enumerate(self.chosen.models, start=1))

    def _command(self, name: str, number: int) -> str:
        chosen, parameters = self.chosen, self.chosen.parameters
        lists = parameters.get("lists")
        out = chosen.kind if len(chosen.models) == 1 else f"{chosen.kind}-{number}"
        return command(
            chosen.kind,
            chosen.models[name],
            *("--neurons", self.neurons[name].results),
            *(["--category", chosen.category] if chosen.category else []),
            *("--layers", ",".join(map(str, parameters["layers"]))),
            *([] if chosen.view == MAP else ["--proportions", ",".join(map(str, parameters["proportions"]))]),
            *(["--keep-only"] if chosen.view == KEEP else []),
            *(["--lists", json.dumps(lists)] if lists else []),
            *(["--task", chosen.task] if chosen.task else ["--loss", parameters["loss"]]),
            *("--repeats", parameters["repeats"]),
            *("--limit", parameters["limit"]),
            *(["--run-code"] if parameters["run_code"] else []),
            *(["--allow-task-code"] if parameters["allow_task_code"] else []),
            *("--out", f"{out}.csv"),
        )

    def steps(self, family: Family, metric: str | None) -> list[Step]:
        """The Python of the page's notebook."""
        chosen = self.chosen
        models, kind = dict(chosen.models), chosen.kind
        own = f"nm.classify(models, corpus={literal(family.corpus)}).paths"
        base = f"nm.classify({literal(family.base)}, corpus={literal(family.corpus)})"
        given = "".join(f"    {name}={literal(value)},\n" for name, value in chosen.parameters.items())
        figure = f"found.figure({literal(metric) if metric else ''}).show()"
        return [
            Step(
                f"models = {literal(models)}\n"
                f"neurons = {own if chosen.own else base}\n"
                f"found = nm.{kind}(\n    models,\n    neurons,\n{given})\n{figure}"
            ),
            Step("found.table" if chosen.view == MAP else "found.curve", "## Numbers"),
            *([] if chosen.view == MAP else [Step("found.effects", "## By how much the category matters more")]),
        ]


@st.cache_data(max_entries=64, show_spinner=False)
def _members(folder: str, category: str, layers: tuple[int, ...]) -> int:
    """How many neurons of a category a classification has in some layers."""
    neurons = open_classification(folder).neurons()
    return int(((neurons["category"] == category) & neurons["layer"].isin(layers)).sum())


def _layers(layers: list[int], every: tuple[int, ...]) -> str:
    """Layers in a title."""
    if layers == list(every):
        return "all layers"
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
