"""Knock-out: does a category's ability go when its neurons are switched off? (NeuronMerge, §2.3, Figs 4 and 7)."""

from dataclasses import replace

import streamlit as st

from nmerge_core.family import Family, Member
from nmerge_core.runs.folder import Run
from pages.shared.frame.family import full
from pages.shared.frame.page import begin, how_computed, lack, tell_lack, writes
from pages.shared.frame.results import merges
from pages.shared.frame.runs import draw_earlier, run_each
from pages.shared.frame.settings import named_run
from pages.shared.knockout.controls import Chosen, draw_controls, draw_view
from pages.shared.knockout.results import draw
from pages.shared.knockout.runs import Runs
from pages.shared.neurons.chosen import opened
from pages.shared.neurons.classified import classified, classify_missing

FORMULA = (
    r"A neuron is off when its activation $\varphi_j$, the input of down's column $j$, is set to 0: the same as "
    "zeroing its weights. Which neurons make up 20 % is a seeded random draw, each share containing the smaller ones "
    "of its draw; the control takes the same number from all neurons of the same layers (NeuronMerge, §2.3, Figs 4 "
    "and 7). All is measured on the same problems or texts, and an effect is the mean difference between both: "
    r"$\mathrm{SE}^2 = s^2_{\text{problems}}/n + s^2_{\text{draws}}/r$, for the draws of both; where the category is "
    r"one draw, whole, the spread of the random ones counts for it too: $s^2 (1 + 1/r)$. Interval and p are "
    "Student's, p adjusted by Holm."
)


def neurons_of(family: Family, chosen: Chosen) -> dict[str, Run]:
    """The classification whose neurons are knocked out in each model, while they are there; else how to get them."""
    needed = replace(family, models=tuple(each for each in family.models if chosen.own and each.label in chosen.models))
    found = classified(needed)
    for name in chosen.models if chosen.own else ["base"]:
        classify_missing(needed, found.only(name), f"knockout_classify_{name}")
    return {name: run for name in chosen.models if (run := found.there.get(name if chosen.own else "base"))}


family = begin(
    "Knock-out",
    "Do these neurons do what their category says?",
    "Switch off a category's neurons and see what the model loses. If the category means anything, it loses more of "
    "that ability than with **as many random neurons** of the same layers switched off.",
)
if not family.corpus:
    tell_lack(family, "corpus", "A neuron gets its category, which says what to switch off, from the texts of one.")
    st.stop()
texts = writes(family)
if not texts and not family.tasks:
    tell_lack(family, "tasks", "The loss on texts is for causal language models; what these lose is measured by tasks.")
    st.stop()
made = {merge.name: merge.reference for merge in merges(family)}
whole = replace(family, models=(*family.models, *(Member(path, name, merged=True) for name, path in made.items())))
named = {full(member.reference): member.label for member in reversed(whole.members)}
run = named_run("knockout") or named_run("effects")
asked = run.parameters if run is not None and run.parameters.get("model") in named else {}
base = classified(family).only("base")
if "base" not in base.there:
    classify_missing(family, base, "knockout_classify")
    st.caption("What can be switched off is known when the neurons of the base have their categories.")
    st.stop()
found = opened(base.there["base"])
view = draw_view(asked)
left, right = st.columns([2, 5], gap="large")
with left:
    chosen = draw_controls(
        family,
        made,
        found,
        view,
        asked,
        named.get(asked.get("model", ""), ""),
        loss=texts,
        asked_own=bool(asked) and asked["neurons"] != str(found.folder),
    )
if chosen is None:
    st.stop()
if not chosen.models:
    right.info("Choose at least one model.")
    st.stop()
with right:
    neurons = neurons_of(whole, chosen)
    if neurons.keys() != chosen.models.keys():
        st.stop()
    runs = Runs(chosen, neurons)
    if runs.lacks:
        lack(runs.lacks)
        st.stop()
    there = run_each(chosen.kind, runs.asked, runs.titles, "Knock them out", "knockout_run", runs.told)
    metric = draw(there, neurons, chosen, family) if there else None
    draw_earlier("Earlier knock-outs", ["knockout", "effects"], there.values(), family)
how_computed(FORMULA, runs.commands(), runs.steps(family, metric))
