"""Reports of families that read by an encoder or see images: their tables of scores, equal to what `evaluate` says."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from nmerge_core.evaluation import evaluate
from nmerge_core.family import load_family
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.reports.budget import BUDGETS
from nmerge_core.reports.make import make_report
from nmerge_core.reports.plan import Best, Plan
from nmerge_core.reports.variants import Variant
from tests.evaluation.test_conditions import CHOICES, PROMPTS
from tests.evaluation.test_seq2seq import ENDED
from tests.evaluation.test_tasks import write_task
from tests.merging.test_modalities import make_t5, make_vit, tune
from tests.reports.findings import LEAST
from tests.tiny import TEXTS, write_corpus
from tests.tiny_images import COLOURS, draw_colours

BUDGET = replace(LEAST, problems=6, validation=2)


def text_tasks(folder: Path) -> list[str]:
    """The same questions with other answers, for one, for two, and for no fine-tune."""
    tasks = []
    for first, name in enumerate(("one", "two", "other")):
        docs = [{"prompt": p, "answer": (n + first) % 3, "choices": ENDED} for n, p in enumerate(PROMPTS)]
        tasks.append(write_task(folder / name, CHOICES | {"task": name, "target_delimiter": ""}, docs))
    return tasks


def image_tasks(folder: Path) -> list[str]:
    draw_colours(folder / "pictures", each=2)
    for name in ("one", "two"):
        content = {"task": name, "kind": "image_classification", "data": "pictures"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return [str(folder / f"{name}.yaml") for name in ("one", "two")]


def texts(folder: Path) -> str:
    return write_corpus(folder, dict(zip(("general", "one", "two"), TEXTS.values(), strict=True)))


def images(folder: Path) -> str:
    draw_colours(folder)
    for colour, category in zip(COLOURS, ("general", "one", "two"), strict=True):
        (folder / colour).rename(folder / category)
    return str(folder)


def merges(plan: Plan, best: Best) -> list[Variant]:
    labels = plan.labels
    searched = [*plan.search(labels, "task arithmetic"), *plan.search(labels, "DARE"), *plan.ties(labels)]
    every = [*searched, *plan.data_free(labels), *plan.by_data(labels), *plan.tuned()]
    return list({variant.key: variant for variant in every}.values())


@pytest.mark.parametrize(
    ("make", "tasks", "corpus", "made"),
    [(make_t5, text_tasks, texts, {2, 7, 10, 11}), (make_vit, image_tasks, images, {4, 8, 9})],
    ids=["T5", "ViT"],
)
def test_tables_of_scores_have_what_evaluate_says(
    make: Callable[[Path], None],
    tasks: Callable[[Path], list[str]],
    corpus: Callable[[Path], str],
    made: set[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(BUDGETS, "quick", BUDGET)
    monkeypatch.setattr(Plan, "merges", merges)
    make(tmp_path / "base")
    models = {name: tune(tmp_path / "base", tmp_path / name, seed) for seed, name in enumerate(("one", "two"))}
    references = tasks(tmp_path)
    family = {"base": str(tmp_path / "base"), "models": models, "tasks": references}
    family["corpus"] = corpus(tmp_path / "corpus")
    (tmp_path / "family.yaml").write_text(yaml.safe_dump(family))
    make_report(load_family(tmp_path / "family.yaml"), tmp_path / "report")
    files = {number: tmp_path / f"report/tables/neuromerging-table-{number}.csv" for number in (2, 3, 4, *range(7, 12))}
    assert {number for number, file in files.items() if file.exists()} == made
    claims = pd.read_csv(tmp_path / "report/tables/claims.csv")
    lacking = claims[claims["told"].str.contains("causal language models")]["claim"]
    assert len(claims) == 6 and len(lacking) == 2  # linearity, and NeuronMerge; neurons are classified and knocked out
    assert all(each in " ".join(lacking) for each in ("linear", "NeuronMerge"))
    assert not claims["told"].str.contains("not measured yet").any()
    table = pd.read_csv(files[min(made)]).set_index("method")
    assert {"averaging", "TIES-Merging, tuned", "PCB-Merging + ES", "NeuroMerging, tuned"} < set(table.index)

    recipe = {"merge_method": "linear", "base_model": family["base"], "models": [{"model": m} for m in models.values()]}
    merge(load_recipe(recipe), tmp_path / "averaging")
    said = evaluate([*models.values(), str(tmp_path / "averaging")], references, limit=6, samples=tmp_path / "samples")
    samples = pd.read_json(tmp_path / "samples", lines=True)
    for label in ("one", "two", "averaging"):
        for name in ("one", "two"):  # the last four of the six problems, as the first two are those of validation
            own = samples[(samples["model"] == label) & (samples["task"] == name) & (samples["id"] >= 2)]
            assert table.at[label, name] == 100 * sum(each["acc"] for each in own["metrics"]) / 4
    if 10 in made:  # all six problems of the task that is no fine-tune's
        outside = pd.read_csv(files[10]).set_index("method").at["averaging", "other"]
        [value] = said[(said["model"] == "averaging") & (said["task"] == "other")]["value"]
        assert outside == pytest.approx(100 * value)
