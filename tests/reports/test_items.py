"""The registry: every figure and table of both papers once, in their order, with the papers' own numbers."""

import json
import re
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import plotly.graph_objects as go
import pytest

from nmerge_core.reports.findings import Findings, Lacking
from nmerge_core.reports.html import drawn
from nmerge_core.reports.item import NEUROMERGING, NEURONMERGE
from nmerge_core.reports.items import ITEMS
from nmerge_core.reports.variants import Variant
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


def test_an_overview_has_what_could_be_merged_in_the_papers_order_and_settings_at_their_best() -> None:
    plan = replace(Findings(FAMILY, LEAST, True).plan, tasks=True)
    fisher, *others = plan.by_data(LABELS)
    tuned = [*plan.lambdas().values(), *plan.ratios().values()]
    variants = [*plan.search(LABELS, "task arithmetic"), *plan.search(LABELS, "DARE"), *plan.data_free(LABELS)]
    numbers = {each.key: 5 for each in (*variants, *others, *tuned)} | {tuned[-1].key: 9}
    numbers |= dict.fromkeys(LABELS, 8)
    scores = {key: dict.fromkeys(LABELS, right(number)) for key, number in numbers.items()}
    found = made(scores, tasks=True, lacks={fisher.key: "Its vocabularies differ."})
    table = BY_ID["neuromerging-table-1"].table(found).set_index("method")
    assert list(table.index) == [
        "RegMean", "task arithmetic", "TIES-Merging", "DARE", "LoraHub", "AdaMerging", "PCB-Merging",
        "PCB-Merging + ES", "NeuroMerging", "NeuroMerging, tuned",
    ]  # fmt: skip
    assert table["mean"].tolist() == [50.0] * 9 + [90.0]
    assert BY_ID["neuromerging-table-3"].table(found)["method"].tolist()[-2:] == ["PCB-Merging + ES", "NeuroMerging"]


def test_one_fine_tune_alone_is_not_merged_and_says_so() -> None:
    found = replace(made({}), family=replace(FAMILY, models=FAMILY.models[:1]))
    with pytest.raises(Lacking, match="one fine-tune alone"):
        BY_ID["neuronmerge-table-1"].table(found)
