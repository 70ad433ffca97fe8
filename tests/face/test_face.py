"""The public functions: paths as text or `Path`, one or several, data frames and figures, nothing computed twice."""

import inspect
import json
import os
import subprocess
import sys
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
from nmerge_core.face.losses import Losses
from nmerge_core.figures import style
from nmerge_core.runs import client, here
from nmerge_core.runs.folder import list_runs
from nmerge_core.runs.kinds import KINDS
from nmerge_core.runs.lock import hold_run
from tests.tiny_family import make_family

FUNCTIONS = face.__all__


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    root = tmp_path_factory.mktemp("cache").resolve()
    before, os.environ["NMERGE_CACHE"] = os.environ["NMERGE_CACHE"], str(root)
    yield root
    os.environ["NMERGE_CACHE"] = before


@pytest.fixture(scope="module")
def found(family, cache):
    return nm.classify([family.base, Path(family.math)], corpus=Path(family.corpus), top_k=3, progress=False)


@pytest.fixture(scope="module")
def merged(family, cache):
    return nm.merge(family.recipe, progress=False)


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


def test_a_family_that_is_not_there_is_told_of_with_those_that_are(cache):
    with pytest.raises(InputError, match="family mine: expected the path of a YAML, or one of demo"):
        nm.open_family("mine")


def states(cache):
    return {run.id: run.status().started for run in list_runs(cache)}


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name in KINDS])
def test_a_function_has_the_parameters_and_defaults_of_its_kind_of_run(name):
    own = dict(inspect.signature(getattr(nm, name)).parameters)
    for parameter in KINDS[name].parameters:
        named = "models" if (name, parameter.name) == ("classify", "model") else parameter.name
        found = own.pop(named)
        assert found.default == (inspect.Parameter.empty if parameter.required else parameter.default), named
    assert own.keys() <= {"progress", "out"}


def test_every_function_is_documented_and_typed():
    for name in FUNCTIONS:
        function = getattr(nm, name)
        signature = inspect.signature(function)
        assert inspect.getdoc(function), name
        assert signature.return_annotation is not inspect.Signature.empty
        for parameter in signature.parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty, (name, parameter.name)
            assert f"{parameter.name}:" in inspect.getdoc(function) or parameter.name == "progress", (name, parameter)
    assert set(FUNCTIONS) <= set(dir(nm))
    with pytest.raises(AttributeError, match="has no attribute 'clasify'"):
        nm.clasify  # noqa: B018


def test_no_room_of_the_package_has_the_name_of_a_function():
    rooms = {path.stem for path in Path(nm.__file__).parent.iterdir()}
    assert not rooms & set(FUNCTIONS)


def test_importing_the_package_takes_nothing_heavy():
    program = "import sys, nmerge_core; assert not {'torch', 'pandas', 'plotly'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_classifications_have_neurons_counts_and_figures(found):
    neurons = found.neurons()
    assert list(neurons) == ["model", "layer", "neuron", "category"] and len(neurons) == 2 * 2 * 48
    counts = found.counts()
    assert list(counts) == ["layer", "category", "base", "math", "intersection"] and counts["base"].sum() == 2 * 48
    again = found.vote(k=1, margin=0)
    assert not again.neurons()["category"].equals(neurons["category"])
    assert not again.counts().equals(counts)
    assert [trace.y for trace in again.figure().data] != [trace.y for trace in found.figure().data]
    assert list(found.undecided().index) == ["base", "math"]
    for figure in (found.figure(), found.figure([1]), found.proportions_figure(), found.depth_figure("math")):
        assert isinstance(figure, go.Figure) and figure.data


def test_one_neuron_up_close(found, family):
    seen = found.explore(1, 7, model="math", count=2)
    opened = found.opened[1]
    ids, scores = opened.top(1)
    assert list(seen.texts["id"]) == list(ids[7, :2])
    assert list(seen.texts) == ["id", "category", "text", "base", "math"]
    assert list(seen.texts["math"]) == pytest.approx(list(scores[7, :2]), rel=1e-5)
    tokens = seen.tokens
    assert list(tokens) == ["model", "text", "position", "token", "activation"] and set(tokens["model"]) == {
        "base",
        "math",
    }
    mine = tokens[(tokens["model"] == "math") & (tokens["text"] == 1)]
    assert "".join(mine["token"]) == seen.texts["text"][1]
    assert mine["position"].iloc[mine["activation"].abs().argmax()] == opened.positions(1)[7, 1]
    assert seen._repr_html_() == seen.html and seen.html.count('class="cell"') == 2 * 2
    own = found.explore(1, 7, texts="<i>3 + 4</i>")
    assert list(own.texts["text"]) == ["<i>3 + 4</i>"] and "<i>3" not in own.html
    assert own.texts["base"][0] == own.tokens.query("model == 'base'")["activation"].abs().max()
    with pytest.raises(InputError, match="neuron 48: expected 0 to 47"):
        found.explore(1, 48)
    with pytest.raises(InputError, match="model 'maths': expected one of base, math"):
        found.explore(1, 7, model="maths")


def test_what_became_of_the_neurons_in_a_merge(family, cache, merged):
    models = {"base": family.base, "math": family.math, "code": family.code, "ours": merged}
    found = nm.classify(models, family.corpus, top_k=3, progress=False)
    table = found.became("ours")
    assert list(table) == ["model", "before", "after", "neurons", "share"]
    assert table.groupby("model", sort=False)["neurons"].sum().to_dict() == {"math": 96, "code": 96}
    neurons = found.neurons().pivot(index=["layer", "neuron"], columns="model", values="category")
    both = ((neurons["code"] == "code") & (neurons["ours"] == "math")).sum()
    assert table.query("model == 'code' and before == 'code' and after == 'math'")["neurons"].item() == both
    inherited = nm.inherited(merged, family.base, {"math": family.math, "code": family.code}, progress=False)
    assert len(inherited.neurons) == 2 * 96 and set(inherited.layers()["model"]) == {"math", "code"}
    kept = found.kept(inherited)
    # code is math and another r as long, at right angles: half of each is all of math and half of r, 3 / 4 of code
    assert kept.query("model == 'math'")["kept"].tolist() == pytest.approx([1.0] * (len(kept) // 2), abs=0.1)
    assert kept.query("model == 'code'")["kept"].tolist() == pytest.approx([0.75] * (len(kept) // 2), abs=0.05)
    assert kept.groupby("model")["neurons"].sum().eq(96).all()
    assert len(found.kept(inherited, by_layer=True)) == 2 * len(kept)
    assert len(found.became_figure("ours").data) == 2 == len(found.kept_figure(inherited).data)
    assert found.kept_depth_figure(inherited).data
    changed = found.changes(1, 7, "ours")
    assert list(changed.kept["model"]) == ["math", "code"] and list(changed.between) == ["model", "math", "code"]
    own = inherited.neurons.query("layer == 1 and neuron == 7")["kept"]
    assert list(changed.kept["kept"]) == pytest.approx(list(own), rel=1e-5)
    with pytest.raises(InputError, match="expected a fine-tune beside the base and ours, found base, ours"):
        nm.compare({"base": found.paths[0], "ours": found.paths[3]}).became("ours")
    for ask in (found.became, lambda merge: found.changes(0, 0, merge)):
        with pytest.raises(InputError, match="model 'theirs': expected one of base, math, code, ours"):
            ask("theirs")


def test_models_are_called_as_a_mapping_says(family, cache, found):
    models = {"base": family.base, "reckoner": Path(family.math)}
    called = nm.classify(models, family.corpus, top_k=3, progress=False)
    assert called.paths == found.paths and list(called.counts())[2:4] == ["base", "reckoner"]
    assert nm.compare({"first": found.paths[0], "second": found.paths[1]}).labels == ("first", "second")
    assert list(nm.inspect(models).models["label"]) == ["base", "reckoner"]
    cosines = nm.cosine(family.base, {"reckoner": family.math}, progress=False)
    assert set(cosines.table["model"]) == set(cosines.moved["model"]) == {"reckoner"}
    assert {line.name for line in cosines.figure().data} == {"reckoner"}
    scores = nm.evaluate(models, family.task, limit=2, progress=False)
    assert list(scores.scores["model"].unique()) == list(scores.table["model"]) == ["base", "reckoner"]
    assert list(scores.leaderboard.index) == ["base", "reckoner"] and list(scores.leaderboard) == list(
        scores.leaderboard.filter(like="plain · bits per byte")
    )
    compared = scores.compare("base")
    assert list(compared["model"]) == ["reckoner"] and compared.loc[0, "test"] == "paired bootstrap"
    sides = scores.sides("plain", "reckoner")
    gain = (sides["value_ours"] - sides["value_theirs"]).mean()
    assert len(sides) == 2 and compared.loc[0, "difference"] == pytest.approx(gain)
    with pytest.raises(InputError, match="'sums': expected one of plain"):
        scores.sides("sums", "reckoner")
    said = nm.generate(models, "2 + 2 =", max_new_tokens=3)
    assert list(said) == ["base", "reckoner"] and all(isinstance(text, str) for text in said.values())


def test_a_model_that_was_scored_before_is_not_scored_again_beside_others(family, cache):
    alone = nm.evaluate(family.code, family.task, limit=3, progress=False)
    before = states(cache)
    both = nm.evaluate([family.base, family.code], family.task, limit=3, progress=False)
    assert both.paths[1:] == alone.paths and before.items() <= states(cache).items()
    assert len(states(cache)) == len(before) + 1


def test_losses_are_compared_text_by_text(family, cache, merged):
    corpus = f"{family.corpus}[:-6]"
    found = nm.loss({"base": family.base, "math": family.math, "merge": merged}, corpus, progress=False)
    texts = found.texts.set_index(["model", "category", "text"])["loss"].sort_index()
    assert list(found.table["texts"]) == [6] * 9 and set(found.texts["tokens"]) == {14, 15, 17, 18}
    own = found.table.set_index(["model", "category"]).loc[("math", "code")]
    assert own["loss"] == pytest.approx(texts["math", "code"].mean()) and own["low"] < own["loss"] < own["high"]
    compared = found.compare().set_index(["model", "category"])
    assert list(compared.index.get_level_values(0)) == ["math"] * 3 + ["merge"] * 3
    expected = (texts["merge", "math"] - texts["base", "math"]).mean()
    assert compared.at[("merge", "math"), "difference"] == pytest.approx(expected)
    assert (compared["adjusted"] >= compared["p"]).all()
    assert len(found.figure().data) == 3 and found.figure().data[0].marker.color[2] == style.MERGE
    assert nm.loss(family.base, corpus, progress=False).paths == found.paths[:1]
    with pytest.raises(InputError, match="baseline 'best': expected one of base, math, merge"):
        found.compare("best")


def test_losses_that_are_no_match_are_not_compared(tmp_path):
    for model, tokens, run_dtype in (("base", 5, "float32"), ("math", 6, "float32"), ("code", 5, "bfloat16")):
        (tmp_path / model).mkdir()
        table = f"model,category,text,loss,tokens,run_dtype\n{model},general,0,1.5,{tokens},{run_dtype}\n"
        (tmp_path / model / "losses.csv").write_text(table)

    def compare(model):
        return Losses((tmp_path / "base", tmp_path / model), ("base", model)).compare()

    with pytest.raises(InputError, match="math, general: expected the tokens of base, found others"):
        compare("math")
    with pytest.raises(InputError, match="code, general: expected losses in float32, as those of base, found bfloat16"):
        compare("code")


def test_a_merge_has_the_colour_of_merges_among_scores(family, merged):
    scores = nm.evaluate({"base": family.base, "mine": merged}, family.task, limit=2, progress=False)
    [bars] = [trace for trace in scores.figure().data if trace.type == "bar"]
    assert list(bars.marker.color) == [style.base_colour(), style.MERGE]


def test_categories_are_in_the_order_of_the_models(found, family):
    assert found.opened[0].categories == ("general", "code", "math")
    assert found.categories == ["general", "math", "code"]
    assert list(found.counts()["category"][:3]) == found.categories


def test_the_history_is_of_all_runs_newest_first(cache, found):
    history = nm.history()
    assert list(history["run"]) == list(states(cache))
    row = history[history["path"] == found.path].iloc[0]
    assert (row["kind"], row["state"], row["created"].tzname()) == ("classify", "done", "UTC")


def test_a_model_is_not_called_as_a_column_of_the_tables(family, cache):
    named = nm.classify({"base": family.base, "category": family.math}, family.corpus, top_k=3, progress=False)
    with pytest.raises(InputError, match="compare: a model is called 'category', as a column of the tables is"):
        named.counts()


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
    lines = nm.linearity(
        family.base, [family.math, family.code], family.corpus, neurons=found, categories=["math", "code"], samples=2,
        progress=False,
    )  # fmt: skip
    assert {"attention", "mlp", "group"} == set(lines.table["submodule"])
    assert lines.figure().data and lines.coefficients_figure().data
    statistics = nm.statistics(family.math, family.corpus, "gram", categories="math", samples=2, progress=False)
    assert statistics.meta["categories"] == ["general", "math"] or statistics.meta["categories"] == ["math"]
    adapter = nm.extract(family.base, family.math, 2, progress=False)
    assert (adapter.path / "adapter_config.json").exists() and list(adapter.changes)[:2] == ["tensor", "rank"]
    inspected = nm.inspect([family.base, family.math])
    assert inspected.mergeable and list(inspected.models["label"]) == ["base", "math"]
    assert nm.estimate(family.recipe).tensors > 10
    assert "ties" in list(nm.methods()["name"]) and nm.methods("ties").title == "TIES-Merging"
    with pytest.raises(InputError, match="method 'tiess': expected one of"):
        nm.methods("tiess")


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


def yaml_of(file):
    return yaml.safe_load(Path(file).read_text())


def test_wrong_input_is_said_as_everywhere(family, cache):
    with pytest.raises(InputError, match="expected a path or a name, found 3"):
        nm.classify([3], family.corpus)  # type: ignore[list-item]  # which is the point
    with pytest.raises(InputError, match=r"classify, margin: expected a whole number in \[0, 50\], found -1"):
        nm.classify(family.base, family.corpus, margin=-1, progress=False)
    with pytest.raises(InputError, match="nowhere: no such corpus"):
        nm.classify(family.base, "nowhere", progress=False)
    with pytest.raises(InputError, match="empty list"):
        nm.inspect([])
    for wrong in (3, None, {"a", "b"}):
        with pytest.raises(InputError, match="expected a path, several, {name: path} or a family, found "):
            nm.classify(wrong, family.corpus)  # type: ignore[arg-type]


def test_a_model_that_is_there_twice_is_told_of_before_any_work(family, cache, monkeypatch):
    before = states(cache)
    monkeypatch.chdir(family.root)
    for twice in ([family.base, family.base], ("base", "math", Path("./base")), [family.base, "math/../base"]):
        with pytest.raises(InputError, match="base is there twice; leave one out, or name both by a mapping"):
            nm.evaluate(twice, family.task, progress=False)
    with pytest.raises(InputError, match="math is there twice; leave one out$"):
        nm.cosine(family.base, {"one": family.math, "two": family.math}, progress=False)
    assert states(cache) == before
    scores = nm.evaluate({"one": family.base, "two": family.base}, family.task, limit=2, progress=False)
    assert list(scores.table["model"]) == ["one", "two"]


def test_another_vote_is_in_no_folder(family, cache, found):
    voted = found.vote(k=1, margin=0)
    recipe = {"merge_method": "neuronmerge", "base_model": family.base, "models": [{"model": family.math}]}
    for ask in (
        lambda: nm.knockout(family.base, voted, "math", 0, family.task, progress=False),
        lambda: nm.merge({**recipe, "parameters": {"neurons": found.vote(margin=0)}}, progress=False),
        lambda: nm.compare(voted),
    ):
        with pytest.raises(InputError, match="found another vote .*; classify with top_k and margin, or give a recipe"):
            ask()
    assert os.fspath(voted.vote()) == os.fspath(found) == str(voted.path)


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
