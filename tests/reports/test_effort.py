"""How much of a report its measurements are, in scorings of a model, and how much it is foreseen to be."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nmerge_core.errors import InputError
from nmerge_core.family import Family, Member
from nmerge_core.reports.budget import FULL
from nmerge_core.reports.effort import Effort, foreseen
from nmerge_core.reports.plan import Plan
from tests.reports.findings import FAMILY, LABELS, LEAST
from tests.tiny import TEXTS, tiny_model, write_corpus


def efforts_of(effort: Effort, several: list) -> dict[str, float]:
    return {variant.method: share for variant, share in effort.merges(several)}


def test_a_search_counts_as_the_scorings_that_it_costs() -> None:
    budget = replace(FULL, problems=10, validation=5)
    plan = Plan(FAMILY, budget, texts=True, tasks=True)
    # Two tasks of ten problems and one of none of the two fine-tunes; a text is ten tokens long.
    effort = Effort(plan, subjects=(100.0, 100.0, 300.0), texts=(5.0, 15.0), categories=3)
    scored = 2 / 3  # of the three tasks
    assert efforts_of(effort, plan.by_data(LABELS)) == {
        "fisher": pytest.approx(scored + 20 * 30 * 2 * 10 / 500),  # 30 texts of each of two categories, 20 passes each
        "regmean": pytest.approx(scored + 3 * 30 * 2 * 10 / 500),
        "lorahub": pytest.approx(scored + 40 * 5 * 2 * 10 / 500),  # 40 candidates, each by five texts of a category
        "adamerging": pytest.approx(scored + 3 * 500 * 16 * 2 * 10 / 500),  # 500 steps of 16, forwards and backwards
        "pcb_es": pytest.approx(scored + 40 * 5 / 10),
    }
    assert effort.classifying == 20 / 500 and effort.knockout == 1 / 3


def test_coefficients_count_with_the_first_merge_that_goes_by_them() -> None:
    plan = Plan(FAMILY, replace(LEAST, samples=4), texts=True)
    effort = Effort(plan, subjects=(100.0, 100.0), texts=(10.0,), categories=3)
    solving = 4 * 2 * 10 * (1 + 2 * (1 + 2)) / 200  # four texts of two categories; base and submodules of three models
    arithmetic, dare = (plan.search(LABELS, method)[0] for method in ("task arithmetic", "DARE"))
    alone = [plan.sublin(LABELS), plan.neuronmerge(LABELS)]
    assert [share for _, share in effort.merges(alone)] == pytest.approx([1 + solving] * 2)
    again = [plan.neuronmerge_1(dare), plan.neuronmerge(LABELS), plan.neuronmerge(LABELS, top_k=20)]
    assert [share for _, share in effort.merges(again)] == pytest.approx([1 + solving, 1, 1 + solving])
    # Whatever else is merged by, General neurons go by the same coefficients; experiments 1 and 3 go by none.
    mixed = [plan.with_task_arithmetic(arithmetic), *plan.combinations(arithmetic, dare)]
    assert [share for _, share in effort.merges(mixed)] == pytest.approx([1 + solving, 1, 1, 1, 1])
    # The choices for two tasks: drop and own go by what the rest does; three sets of groups are merged.
    assert sum(share for _, share in effort.merges(plan.choices().values())) == pytest.approx(9 + 4 * solving)


def test_what_is_foreseen_follows_from_texts_and_the_number_of_tasks(tmp_path: Path) -> None:
    base, corpus = tiny_model(tmp_path / "base"), write_corpus(tmp_path / "corpus", TEXTS)
    models = tuple(Member(str(tmp_path / label), label, label) for label in LABELS)
    family = Family("tiny", base, models, f"{corpus}[:-1]")
    losses = foreseen(family, LEAST, run_code=False)
    held = [own[-1] for own in TEXTS.values()]  # the last of each category
    assert sorted(losses.subjects) == sorted(len(text.encode()) / 4 for text in held)
    read = [len(text.encode()) / 4 for own in TEXTS.values() for text in own[:-1]]
    assert sorted(losses.texts) == sorted(read) and losses.categories == 3
    task, runs = tmp_path / "a.yaml", tmp_path / "b.yaml"
    for file, more in ((task, ""), (runs, "unsafe_code: true\n")):
        file.write_text(f"task: {file.stem}\n{more}")
    by_tasks = foreseen(replace(family, tasks=(str(task), str(task))), LEAST, run_code=False)
    assert by_tasks.subjects == [2 * 150] * 2  # two problems of each
    code = replace(family, tasks=(str(runs),))
    assert [foreseen(code, LEAST, run_code=run).subjects for run in (False, True)] == [losses.subjects, [300]]
    bare = foreseen(replace(family, corpus=None), LEAST, run_code=False)
    assert bare.total == 3 * bare.weights  # nothing judges models: what weights tell is all there is
    sources = tmp_path / "sources.yaml"
    sources.write_text(json.dumps({"datasets": {"general": {"path": "not/here"}}}))
    with pytest.raises(InputError, match="is not known before they are read"):
        foreseen(replace(family, corpus=str(sources)), LEAST, run_code=False)
