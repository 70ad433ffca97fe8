"""Results are runs of the cache: nothing is computed twice, no interrupt loses any, each stands for its folder."""

import json
import threading
import time
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
import yaml

import nmerge_core as nm
from nmerge_core import face
from nmerge_core.errors import InputError
from nmerge_core.runs import client, here
from nmerge_core.runs.folder import list_runs
from nmerge_core.runs.lock import hold_run
from tests.face.conftest import states

FUNCTIONS = face.__all__


def test_a_family_goes_where_models_do(family, cache, found, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        f"base: {family.base}\nmodels: {{math: {family.math}}}\ncorpus: {family.corpus}\n"
    )
    mine = nm.open_family(tmp_path / "mine.yaml")
    again = nm.classify(mine, mine.corpus, top_k=3, progress=False)
    pd.testing.assert_frame_equal(again.counts(), found.counts())
    assert nm.inspect(mine).models["label"].tolist() == ["base", "math"]
    for tuned in (mine.models, mine):  # the base is no fine-tune of itself
        assert set(nm.cosine(mine.base, tuned, progress=False).table["model"]) == {"math"}


def test_the_demo_family_is_written_when_first_asked_for(cache):
    demo = nm.open_family()
    assert not demo.missing and [member.label for member in demo.members] == ["base", "math", "code", "translation"]


def test_the_history_is_of_all_runs_newest_first(cache, found):
    history = nm.history()
    assert list(history["run"]) == list(states(cache))
    row = history[history["path"] == found.path].iloc[0]
    assert (row["kind"], row["state"], row["created"].tzname()) == ("classify", "done", "UTC")


def test_nothing_is_computed_twice(family, cache, found, merged):
    before = states(cache)
    again = nm.classify([family.base, family.math], family.corpus, top_k=3, progress=False)
    assert again.paths == found.paths
    assert nm.merge(str(family.recipe), progress=False).path == merged.path
    assert states(cache) == before
    assert nm.compare([found.paths[0], str(found.paths[1])]).counts().equals(found.counts())


def test_a_result_stands_for_its_folder(family, cache, found, merged):
    scores = nm.evaluate([family.base, merged], tasks=Path(family.task), limit=2, progress=False)
    assert list(scores.scores["model"].unique()) == list(scores.labels) == ["base", "merged"]
    assert isinstance(scores.figure(), go.Figure) and list(scores.table["model"]) == ["base", "merged"]
    curve = nm.knockout(
        family.base, found, "general", [0, 1], family.task, proportions=1.0, repeats=1, limit=2, progress=False
    )
    assert set(curve.curve["group"]) == {"general", "random"} and isinstance(curve.figure(), go.Figure)
    recipe = {"merge_method": "task_arithmetic", "base_model": Path(family.base), "models": ({"model": merged},)}
    recipe["chat_template"] = "base"
    again = nm.merge(recipe, progress=False)
    assert str(merged.path) in again.recipe and nm.merge(again.recipe, progress=False).path == again.path


def test_a_merge_has_its_report_recipe_and_facts(family, merged):
    assert merged.report["method"] == "task_arithmetic" and "merge_method: task_arithmetic" in merged.recipe
    with pytest.raises(ValueError, match="task_arithmetic finds nothing that can be drawn"):
        merged.figure()
    solved = nm.merge(
        {
            "merge_method": "sublin",
            "base_model": family.base,
            "models": [{"model": family.math}, {"model": family.code}],
            "parameters": {"calibration": family.corpus, "samples": 2},
        },
        progress=False,
    )
    assert isinstance(solved.figure(), go.Figure) and solved.facts["coefficients"]


def test_a_merge_into_a_folder_of_ones_own(family, tmp_path):
    merged = nm.merge(family.recipe, tmp_path / "out", progress=False)
    assert merged.path == tmp_path / "out" and (merged.path / "config.json").exists()
    with pytest.raises(InputError, match="out"):
        nm.merge(family.recipe, str(tmp_path / "out"), progress=False)


def test_paths_may_start_at_the_users_folder(family, cache, found, merged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(family.root))
    assert nm.merge("~/recipe.yaml", progress=False).path == merged.path
    assert nm.merge(Path("~/recipe.yaml"), "~/mine", progress=False).path == family.root / "mine"
    assert (family.root / "mine/config.json").exists() and not (tmp_path / "~").exists()
    (family.root / "neurons").symlink_to(found.path)
    assert nm.compare("~/neurons").neurons().equals(nm.compare(found).neurons())
    with pytest.raises(InputError, match="~nobody-of-this-name/c: no such corpus"):
        nm.classify(family.base, "~nobody-of-this-name/c", progress=False)
    with pytest.raises(InputError, match="~nobody-of-this-name/r.yaml: cannot be read"):
        nm.merge("~nobody-of-this-name/r.yaml", progress=False)


def test_the_other_functions_give_tables_and_figures(family, cache, found):
    cosines = nm.cosine(family.base, family.math, progress=False)
    assert set(cosines.table["model"]) == {"math"} and len(cosines.moved) and cosines.figure().data
    both = nm.cosine(family.base, {"sums": family.math, "python": family.code}, progress=False)
    assert set(both.neurons["model"]) == {"sums", "python"}
    assert set(both.between["one"]) == {"sums"} and set(both.between["other"]) == {"python"}
    assert list(both.map_figure().data[0].y) == ["sums and python"] and both.conflicts(["sums"]).empty
    categories = nm.compare(found).overview()
    assert list(both.map_figure("parallel", "python", categories).data[0].y) == list(
        categories["category"].cat.categories[categories["category"].value_counts(sort=False) > 0]
    )
    with pytest.raises(InputError, match="expected one of change, parallel, cosine, opposed"):
        both.map_figure("nothing")
    shared = nm.interference(family.base, [family.math, family.code], progress=False)
    assert set(shared.table["layer"]) == {0, 1} and shared.figure("cosine").data
    lines = nm.linearity(
        family.base, [family.math, family.code], family.corpus, neurons=found, categories=["math", "code"], samples=2,
        progress=False,
    )  # fmt: skip
    assert {"attention", "mlp", "group"} == set(lines.table["submodule"])
    assert lines.figure().data and lines.coefficients_figure().data and lines.by_chance_figure("general").data
    assert lines.by_chance is not None and set(lines.by_chance["draws"]) == {20}
    statistics = nm.statistics(family.math, family.corpus, "gram", categories="math", samples=2, progress=False)
    assert statistics.meta["categories"] == ["general", "math"] or statistics.meta["categories"] == ["math"]
    adapter = nm.extract(family.base, family.math, 2, progress=False)
    assert (adapter.path / "adapter_config.json").exists() and list(adapter.changes)[:2] == ["tensor", "rank"]
    inspected = nm.inspect([family.base, family.math])
    assert inspected.mergeable and list(inspected.models["label"]) == ["base", "math"]
    assert nm.estimate(family.recipe).tensors > 10
    assert "ties" in list(nm.methods()["name"]) and nm.methods("ties").title == "TIES-Merging"
    with pytest.raises(InputError, match="method: found 'tiess'; did you mean 'ties'"):
        nm.methods("tiess")


def yaml_of(file):
    return yaml.safe_load(Path(file).read_text())


def test_a_sweep_is_a_run_too(family, cache):
    content = {
        "recipe": yaml_of(family.recipe),
        "search": {"parameters.weight": [0.2, 0.4]},
        "tasks": [family.task],
        "limit": 2,
    }
    found = nm.sweep(content, progress=False)
    assert list(found.trials["parameters.weight"]) == [0.2, 0.4] and found.best.exists()
    before = states(cache)
    assert nm.sweep(content, progress=False).path == found.path and states(cache) == before
    assert nm.sweep(yaml.safe_dump(content), progress=False).path == found.path


def test_a_run_that_another_process_does_is_waited_for(family, cache):
    request = {"base": family.base, "models": [family.code]}
    run = here.do("cosine", request)
    (run.results / "cosine.csv").rename(run.folder / "kept.csv")
    status = json.loads((run.folder / "status.json").read_text())
    lock = hold_run(run.folder)
    (run.folder / "status.json").write_text(json.dumps({**status, "state": "running"}))
    stages: list[str] = []

    def finish() -> None:
        time.sleep(0.5)
        (run.folder / "kept.csv").rename(run.results / "cosine.csv")
        (run.folder / "status.json").write_text(json.dumps({**status, "updated": time.time()}))
        lock.close()

    other = threading.Thread(target=finish)
    other.start()
    found = here.do("cosine", request, lambda stage, *_: stages.append(stage))
    other.join()
    assert found.id == run.id and stages and isinstance(pd.read_csv(found.results / "cosine.csv"), pd.DataFrame)


def test_an_interrupt_leaves_a_merge_to_go_on_with(family, cache):
    recipe = {**yaml_of(family.recipe), "parameters": {"weight": 0.125}}

    def stop(stage, done, total, unit=""):
        if stage == "Merging" and done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        here.do("merge", {"recipe": recipe}, stop)
    [run] = [run for run in list_runs(cache) if run.status().state == "interrupted"]
    assert run.part.exists() and run.status().message.endswith("by a signal to end. Start it again to continue.")
    assert here.do("merge", {"recipe": recipe}).id == run.id and run.status().state == "done"


def test_an_interrupt_of_what_begins_anew_says_so(family, cache):
    def stop(stage, done, total, unit=""):
        raise KeyboardInterrupt

    request = {"base": family.math, "models": [family.code]}
    with pytest.raises(KeyboardInterrupt):
        here.do("cosine", request, stop)
    run = client.lookup("cosine", request)
    assert run and run.status().state == "interrupted" and not run.part.exists()
    assert (
        run.status().message == "Interrupted, from the keyboard or by a signal to end. Start it again: it begins anew."
    )
