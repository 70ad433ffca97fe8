"""The registry: every figure and table of both papers once, in their order, with the papers' own numbers."""

import json
import re
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import plotly.graph_objects as go
import pytest

from nmerge_core.labelling.tables import Labels
from nmerge_core.reports.findings import T5, VISION, WRITING, Findings, Lacking
from nmerge_core.reports.html import drawn
from nmerge_core.reports.item import NEUROMERGING, NEURONMERGE
from nmerge_core.reports.items import ITEMS
from nmerge_core.reports.subjects import Subject
from nmerge_core.reports.variants import Variant
from nmerge_core.reports.verdicts import AGREES, NOTHING
from tests.reports.findings import FAMILY, LABELS, LEAST, made, right

BY_ID = {item.id: item for item in ITEMS}


@pytest.mark.parametrize(("paper", "figures", "tables"), [(NEURONMERGE, 12, 17), (NEUROMERGING, 7, 12)])
def test_every_figure_and_table_is_there_once(paper: str, figures: int, tables: int) -> None:
    numbers = [item.number for item in ITEMS if item.paper == paper]
    expected = [f"Figure {n}" for n in range(1, figures + 1)] + [f"Table {n}" for n in range(1, tables + 1)]
    assert sorted(numbers) == sorted(expected)
    for kind in ("Figure", "Table"):  # in the order in which the paper has them, those of a kind count up
        places = [int(number.split()[1]) for number in numbers if number.startswith(kind)]
        assert paper == NEUROMERGING or all(one < other for one, other in pairwise(places))


def test_every_entry_says_what_the_paper_finds_in_a_sentence() -> None:
    assert [item.paper for item in ITEMS] == [NEURONMERGE] * 29 + [NEUROMERGING] * 19
    for item in ITEMS:
        assert re.fullmatch(r"[A-Z].+[.]", item.trend), item.id
        assert re.fullmatch(r"neuronmerge-(figure|table)-\d+|neuromerging-(figure|table)-\d+", item.id)


@pytest.mark.parametrize(
    ("entry", "row", "column", "value"),
    [
        ("neuronmerge-table-1", 3, "math & coding & translate", 76.82),
        ("neuronmerge-table-3", 2, "code: drop", 70.80),
        ("neuronmerge-table-13", 7, "mean", 70.16),
        ("neuronmerge-table-17", 5, "gain / normalised time", 2.626),
        ("neuromerging-table-3", 8, "mean", 36.0),
        ("neuromerging-table-5", 0, "mean", 82.2),
        ("neuromerging-table-12", 20, "wsc", 63.9),
    ],
)
def test_the_papers_numbers_are_theirs(entry: str, row: int, column: str, value: float) -> None:
    published = BY_ID[entry].published
    assert published is not None and published.at[row, column] == value


def test_labels_by_a_language_model_are_those_that_were_there() -> None:
    figure_10 = BY_ID["neuronmerge-figure-10"]
    with pytest.raises(Lacking, match="`nmerge label`, or Neurons, asks a chat model"):
        figure_10.table(made({}))
    same, other = [("math", "math"), ("general", "general")] * 20, [("math", "general"), ("code", "")] * 2
    columns = {"layer": 0, "neuron": 0, "score": 1, "read": 1, "explanation": "", "excited": None, "spared": None}
    table = pd.DataFrame(same + other, columns=["category", "label"]).assign(**columns)
    found = made({}, labels=Labels(table, {"by": "m", "categories": ["general", "math", "code"]}))
    counts = figure_10.table(found).set_index("category")
    assert counts.loc["math"].to_list() == [2, 20, 0, 0] and counts.loc["code"].to_list() == [0, 0, 0, 2]
    assert figure_10.figure is not None and figure_10.figure(found, True).data[0].type == "heatmap"
    verdict = figure_10.judge(found)
    # p_o = 40 / 42, p_e = (20 · 22 + 22 · 20) / 42², κ = (p_o − p_e) / (1 − p_e)
    assert verdict.estimate is not None and verdict.estimate.value == pytest.approx(0.9050, abs=1e-4)
    assert verdict.verdict == "agrees" and "40 of 42 neurons" in verdict.told
    assert "2 of 44 have no answer" in verdict.told
    assert figure_10.judge(made({}, labels=Labels(table.assign(label=""), found.labels.meta))).verdict == NOTHING


def test_a_name_in_a_figure_ends_no_script_of_the_page() -> None:
    name = "</script><!--<script>"
    figure = go.Figure(layout={"title": {"text": name}})
    html = drawn(figure, figure, name)
    [content] = re.findall('<script type="application/json">(.*)</script></div>$', html)
    assert "<" not in content and json.loads(content)["dark"]["layout"]["title"]["text"] == name
    assert html.count("<script") == 1 and "<!--" not in html


def test_means_follow_from_scores_but_where_a_note_says_that_the_papers_do_not() -> None:
    wrong = []
    for item in ITEMS:
        table = item.published
        if table is None or "mean" not in table or not {"math", "paws", "SUN397", "CMMLU", "copa"} & {*table}:
            continue
        scores = table.drop(columns="mean").select_dtypes("number")
        if item.number in ("Table 7", "Table 13") and item.paper == NEURONMERGE:
            scores = scores[[name for name in ("Qwen2.5-14B math", "math", "coding") if name in scores]]
        for row in table.index[(scores.mean(axis=1) - table["mean"]).abs() > 0.09]:
            wrong.append((item.id, table.iloc[row, 0], table.at[row, "mean"]))
            assert "not th" in item.note, item.id
    assert wrong == [
        ("neuronmerge-table-4", "task arithmetic", 69.73),
        ("neuronmerge-table-5", "task arithmetic", 69.73),
        ("neuronmerge-table-5", "task arithmetic", 74.81),
        ("neuronmerge-table-6", "DARE", 85.70),
        ("neuronmerge-table-15", "task arithmetic", 69.73),
        ("neuromerging-table-2", "zero-shot", 53.1),
        ("neuromerging-table-2", "NeuroMerging", 77.6),
        ("neuromerging-table-8", "NeuroMerging", 76.4),
    ]


def test_choices_are_a_grid_of_three_by_three() -> None:
    cells = Findings(FAMILY, LEAST, True).plan.choices()
    numbers = {each.key: number for number, each in enumerate(cells.values(), 1)}
    found = made({key: dict.fromkeys(LABELS, right(number)) for key, number in numbers.items()})
    table = BY_ID["neuronmerge-table-3"].table(found)
    assert list(table) == ["math neurons", "code: choose model", "code: merge", "code: drop"]
    assert table.iloc[:, 1:].to_numpy().tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]  # percent
    verdict = BY_ID["neuronmerge-table-3"].judge(found)
    assert verdict.estimate and verdict.estimate.value == pytest.approx(90 - 45)  # less the mean of 10 to 80


def test_costs_are_of_measured_times() -> None:
    plan = Findings(FAMILY, LEAST, True).plan
    [arithmetic], [dare] = (plan.search(LABELS, method) for method in ("task arithmetic", "DARE"))
    free = {each.title: each for each in plan.data_free(LABELS)}
    variants = [arithmetic, dare, free["TIES-Merging"], plan.sublin(LABELS), plan.neuronmerge(LABELS)]
    variants.append(plan.neuronmerge_1(dare))
    right_of = {each.key: 5 for each in variants} | {plan.neuronmerge(LABELS).key: 8}
    times = [{"variant": each.key, "merging": 2.0, "scoring": 9.0} for each in variants]
    scores = {key: dict.fromkeys(LABELS, right(number)) for key, number in right_of.items()}
    found = made(scores, times=pd.DataFrame(times), classifying=3.0)
    table = BY_ID["neuronmerge-table-17"].table(found).set_index("method")
    own = table.loc["NeuronMerge₂"]
    assert own["all, s"] == 3 + 2 and own["gain"] == pytest.approx(80 - 50)
    assert own["gain / normalised time"] == pytest.approx(30 / (5 / 2))  # task arithmetic: one setting of 2 s
    assert table.at["task arithmetic", "all, s"] == 2 and table.at["DARE", "classifying, s"] == 0


def test_costs_of_merges_that_are_not_made_yet_are_told_as_lacking() -> None:
    plan = Findings(FAMILY, LEAST, True).plan
    variants: list[Variant] = []
    for variant in plan.merges(lambda several: several[0]):  # stopped before each of them
        scores = {each.key: dict.fromkeys(LABELS, right(5)) for each in variants}
        scores |= {name: dict.fromkeys(LABELS, right(5)) for name in ("base", *LABELS)}
        times = pd.DataFrame([{"variant": each.key, "merging": 2.0, "scoring": 9.0} for each in variants])
        found = made(scores, times=times if variants else None, classifying=3.0)
        with suppress(Lacking):  # and no other error
            BY_ID["neuronmerge-table-17"].table(found)
        variants.append(variant)


def validated() -> Findings:
    """All methods, each with the first four of ten problems wrong and the next five right, but for two settings.

    One of TIES-Merging is right on the first two alone, one of NeuroMerging on all but these.
    """
    budget = replace(LEAST, validation=2)
    plan = replace(Findings(FAMILY, budget, True).plan, tasks=True)
    fisher, *others = plan.by_data(LABELS)
    searched = [*plan.search(LABELS, "task arithmetic"), *plan.search(LABELS, "DARE"), *plan.ties(LABELS)]
    keys = [each.key for each in (*searched, *plan.data_free(LABELS), *others, *plan.tuned())]
    values = dict.fromkeys((*keys, *LABELS), [0.0] * 4 + [1.0] * 5 + [0.0])
    values |= {plan.ties(LABELS)[-1].key: [1.0] * 2 + [0.0] * 8, plan.tuned()[-1].key: [0.0] * 2 + [1.0] * 8}
    scores = {key: dict.fromkeys(LABELS, own) for key, own in values.items()}
    return made(scores, tasks=True, budget=budget, lacks={fisher.key: "Its vocabularies differ."})


def test_an_overview_has_what_could_be_merged_in_the_papers_order() -> None:
    table = BY_ID["neuromerging-table-1"].table(validated()).set_index("method")
    assert list(table.index) == [
        "RegMean", "task arithmetic", "TIES-Merging", "TIES-Merging, tuned", "DARE", "LoraHub", "AdaMerging",
        "PCB-Merging", "PCB-Merging + ES", "NeuroMerging", "NeuroMerging, tuned",
    ]  # fmt: skip


def test_a_setting_is_chosen_by_problems_on_which_it_is_not_tested() -> None:
    found = validated()
    table = BY_ID["neuromerging-table-3"].table(found).set_index("method")
    assert list(table.index) == [
        *LABELS, "averaging", "task arithmetic", "TIES-Merging", "TIES-Merging, tuned", "PCB-Merging",
        "PCB-Merging + ES", "NeuroMerging", "NeuroMerging, tuned",
    ]  # fmt: skip
    # Of the last eight problems five are right. The best of TIES-Merging on the first two has none of the others; what
    # would be best on the others is not chosen.
    assert table["mean"].tolist() == [62.5] * 5 + [0.0] + [62.5] * 4
    assert table.at["TIES-Merging, tuned", "chosen"] == "density = 0.1, λ = 1"
    assert table.at["NeuroMerging, tuned", "chosen"] == "λ1 = 0, λ2 = 1"  # the first of equals
    verdict = BY_ID["neuromerging-table-3"].judge(found)
    assert "NeuroMerging, tuned against TIES-Merging, tuned: +62.5" in verdict.told
    assert "NeuroMerging against averaging: +0.0" in verdict.told


def test_a_setting_is_tested_on_other_documents_than_those_it_is_chosen_by() -> None:
    found = validated()
    shared = [replace(each, clusters=("a", "b", "b", *"cdefghi")) for each in found.subjects]
    chosen, tested = replace(found, subjects=tuple(shared)).split
    assert [each.documents for each in chosen.subjects] == [("a", "b")] * 2
    assert [each.documents for each in tested.subjects] == [tuple("cdefghi")] * 2  # not the third, which is of b
    assert [len(own) for own in tested.values(LABELS[0], tested.subjects)] == [7, 7]
    alone = [replace(each, clusters=("a",) * 10) for each in found.subjects]
    with pytest.raises(Lacking, match="too few problems, or documents"):
        BY_ID["neuromerging-table-3"].table(replace(found, subjects=tuple(alone)))


@pytest.mark.parametrize(
    ("kind", "made_of", "where"),
    [
        (WRITING, {3}, "language models are in Table 3."),
        (T5, {2, 7, 10, 11}, "sequence-to-sequence models are in Tables 2 and 7."),
        (VISION, {4, 8, 9}, "models that see images are in Tables 4, 8 and 9."),
    ],
)
def test_tables_of_scores_are_made_of_the_kind_of_models_that_the_paper_has(
    kind: str, made_of: set[int], where: str
) -> None:
    found, general = replace(validated(), kind=kind), Subject("general", "acc", True, 10)
    own = found.table("scores")
    own = pd.concat([own, own[own["variant"] == "math"].assign(variant="base")])
    scores = pd.concat([own, own[own["subject"] == "math"].assign(subject="general")])
    found = replace(found, subjects=(*found.subjects, general), scores=scores)
    tables = {}
    for number in (2, 3, 4, 7, 8, 9, 10, 11):
        try:
            tables[number] = BY_ID[f"neuromerging-table-{number}"].table(found)
        except Lacking as lacking:
            assert number > 9 or where in str(lacking)
    assert set(tables) == made_of
    for number, table in tables.items():
        assert list(table)[-4:] == ["general" if number > 9 else "code", "mean", "low", "high"]


def test_a_task_that_is_no_fine_tunes_is_judged_in_its_own_unit() -> None:
    """In bits per byte NeuroMerging is better by 0.02 on each of ten problems, beside tasks in percent."""
    rows = {each.title: each for each in Findings(FAMILY, LEAST, True).plan.data_free(LABELS)}
    values = {rows[title].key: value for title, value in (("NeuroMerging", 1.0), ("TIES-Merging", 1.02))}
    values[rows["PCB-Merging"].key] = 1.02
    found = made({key: {"general": [value] * 10} for key, value in values.items()})
    general = Subject("general", "bits_per_byte", False, 10)
    verdict = BY_ID["neuromerging-figure-3"].judge(replace(found, subjects=(*found.subjects, general)))
    assert (
        verdict.verdict == AGREES and verdict.told.count("+0.020 (95 % interval +0.020 to +0.020) bits per byte") == 2
    )


def test_one_fine_tune_alone_is_not_merged_and_says_so() -> None:
    found = replace(made({}), family=replace(FAMILY, models=FAMILY.models[:1]))
    with pytest.raises(Lacking, match="one fine-tune alone"):
        BY_ID["neuronmerge-table-1"].table(found)
