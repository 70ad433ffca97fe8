"""Classifications from a notebook: neurons, counts and figures, of several models and of a merge."""

import os

import plotly.graph_objects as go
import pytest

import nmerge_core as nm
from nmerge_core import face
from nmerge_core.errors import InputError
from nmerge_core.neuron.record import record

FUNCTIONS = face.__all__


def test_classifications_have_neurons_counts_and_figures(found, family):
    neurons = found.neurons()
    assert list(neurons) == ["model", "layer", "neuron", "category"] and len(neurons) == 2 * 2 * 48
    counts = found.counts()
    assert list(counts) == ["layer", "category", "base", "math", "intersection"] and counts["base"].sum() == 2 * 48
    again = found.vote(k=1, margin=0)
    assert not again.neurons()["category"].equals(neurons["category"])
    assert not again.counts().equals(counts)
    assert [trace.y for trace in again.figure().data] != [trace.y for trace in found.figure().data]
    assert list(found.undecided().index) == ["base", "math"]
    sure = found.confidence(draws=20, seed=1)
    assert sure[list(neurons)].astype(neurons.dtypes).equals(neurons) and sure["support"].between(0, 1).all()
    solid, pale = found.figure([1], support=0.9).data[:2]
    certain = found.confidence().query("model == 'base' and layer == 1 and support >= 0.9")["category"].value_counts()
    assert dict(zip(solid.x, solid.y, strict=True)) == {name: certain.get(name, 0) for name in solid.x}
    every = counts.query("layer == 1").set_index("category")["base"]
    assert [a + b for a, b in zip(solid.y, pale.y, strict=True)] == [every[name] for name in solid.x]
    assert pale.base == solid.y and pale.opacity < 1
    more = nm.classify(family.base, family.corpus, top_k=3, statistics=True, layerwise=True, progress=False)
    assert more.path != found.path and more.neurons()["category"].equals(neurons["category"][:96])
    assert len(more.statistics()) == 2 * 48 and more.statistics("base")["tokens"].nunique() == 1
    with pytest.raises(InputError, match="expected a classification with statistics.safetensors"):
        found.statistics("math")
    both = found.agreement()
    assert both.share == (counts["intersection"].sum() / 96) and both.counts.to_numpy().sum() == 2 * 48
    assert found.agreement("base").kappa == found.agreement(other=found).kappa == 1.0
    with pytest.raises(InputError, match="expected a model or other classifications, found both"):
        found.agreement("math", found)
    for figure in (
        found.figure(),
        found.figure([1]),
        found.proportions_figure(),
        found.depth_figure("math"),
        found.map_figure("intersection"),
    ):
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
    stored = found.record(1, 7, count=2)["models"][1]
    assert [text["score"] for text in stored["texts"]] == pytest.approx(list(scores[7, :2]))
    assert [text["token"] for text in stored["texts"]] == opened.positions(1)[7, :2].tolist()
    noted = record(found.opened, found._seen(1, 7), 1, 7, 2, "*digits*")
    assert noted == found.record(1, 7, count=2) | {"note": "*digits*"}
    whole = found.scores_figure(1, 7, model="math", texts={"own": "<i>3 + 4</i>"})
    assert sum(sum(bar.y) for bar in whole.data if bar.type == "bar") == len(opened.exemplar_categories)
    assert whole.data[-1].x[0] == pytest.approx(own.texts["math"][0])
    with pytest.raises(InputError, match="neuron 48: expected 0 to 47"):
        found.explore(1, 48)
    with pytest.raises(InputError, match="way 'best': expected one of strongest"):
        found.explore(1, 7, way="best")
    with pytest.raises(InputError, match="model 'maths': expected one of base, math"):
        found.explore(1, 7, model="maths")


def test_a_text_of_ones_own(found, family):
    read = found.on_text("1 + 2", more=3, model="math", count=2)
    assert "".join(read.tokens["token"][:5]) == "1 + 2" and list(read.tokens["added"]) == [False] * 5 + [True] * 3
    assert list(read.tokens) == ["position", "token", "added", "math"] and (read.tokens["math"] > 0).all()
    assert len(read.neurons) == 2 * 8 * 2  # models, tokens, neurons
    first = read.neurons.query("model == 'math' and position == 4").iloc[0]
    seen = found.explore(int(first.layer), int(first.neuron), model="math", texts="1 + 2").tokens
    assert seen.query("model == 'math' and position == 4")["activation"].iloc[0] == pytest.approx(first.activation)
    assert list(read.figure().data[0].z[0]) == list(read.tokens["math"])


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
    assert list(changed.kept["model"]) == ["math", "code"] and list(changed.models["model"]) == ["math", "code", "ours"]
    alone = nm.compare({"base": found.paths[0], "math": found.paths[1], "code": found.paths[2]}).changes(1, 7)
    assert alone.between.equals(changed.between) and alone.kept.empty
    own = inherited.neurons.query("layer == 1 and neuron == 7")["kept"]
    assert list(changed.kept["kept"]) == pytest.approx(list(own), rel=1e-5)
    with pytest.raises(InputError, match="expected a fine-tune beside the base and ours, found base, ours"):
        nm.compare({"base": found.paths[0], "ours": found.paths[3]}).became("ours")
    for ask in (found.became, lambda merge: found.changes(0, 0, merge)):
        with pytest.raises(InputError, match="model 'theirs': expected one of base, math, code, ours"):
            ask("theirs")


def test_categories_are_in_the_order_of_the_models(found, family):
    assert found.opened[0].categories == ("general", "code", "math")
    assert found.categories == ["general", "math", "code"]
    assert list(found.counts()["category"][:3]) == found.categories


def test_a_model_is_not_called_as_a_column_of_the_tables(family, cache):
    named = nm.classify({"base": family.base, "category": family.math}, family.corpus, top_k=3, progress=False)
    with pytest.raises(InputError, match="compare: a model is called 'category', as a column of the tables is"):
        named.counts()


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
