"""How much of a report its merges are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nmerge_core.reports.budget import FULL
from nmerge_core.reports.effort import of_knockout, of_merge
from tests.reports.findings import FAMILY, LABELS, made


def test_a_search_counts_as_the_scorings_that_it_costs(tmp_path: Path) -> None:
    found = replace(made({}, budget=replace(FULL, validation=5)), family=replace(FAMILY, corpus=None))
    efforts = {each.method: of_merge(found, each, found.subjects) for each in found.plan.by_data(LABELS)}
    # Judged by ten texts of each category; AdaMerging steps 500 times through 16, forwards and backwards.
    assert efforts == {"fisher": 1, "regmean": 1, "lorahub": 1 + 40 * 5 / 10, "adamerging": 1 + 3 * 500 * 16 / 10}
    lines = [json.dumps({"text": "x" * length}) for length in (200, 400)]
    (tmp_path / "general.jsonl").write_text("\n".join(lines))
    found = replace(found, tasks=True, family=replace(FAMILY, corpus=str(tmp_path)))
    efforts = {each.method: of_merge(found, each, found.subjects) for each in found.plan.by_data(LABELS)}
    assert efforts["pcb_es"] == 1 + 40 * 5 / 10
    assert efforts["lorahub"] == pytest.approx(1 + 40 * 5 * (300 / 4) / 150 / 10)  # texts are half as long as problems
    assert of_knockout(found) == 1 / 2  # of one of two tasks
