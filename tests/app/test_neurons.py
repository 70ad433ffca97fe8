import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nmerge_core.activations.store import open_classification
from nmerge_core.family import Family, Member, load_family
from nmerge_core.figures import neurons, style
from nmerge_core.figures.neuron_map import heat_map
from nmerge_core.runs.folder import list_runs
from pages.shared.neurons import chosen, classified, exact
from pages.shared.neurons.layers import read_layers, usual_layers
from tests.app.conftest import OpenPage, finish
from tests.app.scored import click, drawn
from tests.tiny import D_FFN, LAYERS

FRAME = pd.DataFrame(
    {
        "layer": [13, 13, 14, 14],
        "category": ["general", "code", "general", "code"],
        "base": [6000, 2000, 4000, 4000],
        "math": [5000, 3000, 4500, 3500],
        "intersection": [4800, 1803, 3900, 3300],
    }
)
COLOURS = {"base": "#000000", "math": style.COLOURS["math"]}


def test_a_panel_per_layer_with_a_bar_per_model_and_the_intersection() -> None:
    figure = neurons.categories_by_layer(FRAME, [13, 14], COLOURS)
    assert [(bar.name, bar.marker.color, list(bar.y)) for bar in figure.data[:3]] == [
        ("base", "#000000", [6000, 2000]),
        ("math", style.COLOURS["math"], [5000, 3000]),
        ("same in all models", style.INTERSECTION, [4800, 1803]),
    ]
    assert [list(bar.y) for bar in figure.data[3:]] == [[4000, 4000], [4500, 3500], [3900, 3300]]
    assert [bar.showlegend for bar in figure.data] == [True] * 3 + [False] * 3
    # 2,000 of layer 13's 8,000 neurons are 25 %.
    assert figure.data[0].hovertext[1] == "layer 13 · 2,000 code neurons in base · 25.0 % · 1,803 kept in all models"


def test_one_model_alone_has_no_intersection() -> None:
    figure = neurons.categories_by_layer(FRAME, [13], {"base": "#000000"})
    assert [bar.name for bar in figure.data] == ["base"]


def test_proportions_are_shares_over_all_layers() -> None:
    figure = neurons.proportions(FRAME, ["base", "math"], style.category_colours(["general", "code"]))
    general, code = figure.data
    # base: (6000 + 4000) / 16000 = 62.5 %; math: (5000 + 4500) / 16000 = 59.375 %.
    assert list(general.x) == pytest.approx([62.5, 59.375])
    assert list(code.x) == pytest.approx([37.5, 40.625])


def test_over_depth_has_a_line_per_category() -> None:
    figure = neurons.over_depth(FRAME, "math", style.category_colours(["general", "code"]), dark=True)
    assert {line.name: (list(line.x), list(line.y)) for line in figure.data} == {
        "general": ([13, 14], [5000, 4500]),
        "code": ([13, 14], [3000, 3500]),
    }
    assert figure.layout.template.layout.paper_bgcolor == style.background(dark=True)


def test_a_heat_map_of_every_layer_and_category() -> None:
    (cells,) = heat_map(FRAME, "math", "#0072B2").data
    assert (cells.x, cells.y) == ((13, 14), ("general", "code"))
    # Of 8,000 neurons: 5,000 and 4,500 are general, 3,000 and 3,500 code. The base's 6,000 are the largest share.
    assert cells.z == ([62.5, 56.25], [37.5, 43.75]) and cells.zmax == 75
    assert cells.customdata[1][0] == ["math", 13, "code"]
    told = "layer 13 · 3,000 code neurons in math · 37.5 % of the layer · 1,803 kept in all models"
    assert cells.hovertext[1][0] == told
    (kept,) = heat_map(FRAME, "intersection", style.INTERSECTION).data
    told = "layer 13 · 4,800 general neurons in every model · 60.0 % of the layer"
    assert kept.z[0][0] == kept.zmax == 60 and kept.hovertext[0][0] == told
    assert kept.customdata[0][0] == ["base", 13, "general"]


def test_a_click_on_a_cell_leads_to_its_neurons(open_page: OpenPage, tiny_cache: Path) -> None:
    app = open_page("pages/2_Neurons.py", neurons_map="math")
    run = next(run for run in list_runs(tiny_cache) if run.title == "Classify math")
    table = open_classification(run.results).neurons().query("layer == 1 and category == 'code'")
    index = next(i for i in range(8) if drawn(app, i).data[0].type == "heatmap")
    point = drawn(app, index).data[0].customdata[2][1]
    shown = ("math", 1, table["neuron"].min(), "code", [1])
    assert point == ["math", 1, "code"] and click(app, "neurons_heat_map", point) == shown
    assert app.dataframe[0].value["neuron"].tolist() == table["neuron"].tolist()[:12]


def test_a_click_on_a_share_leads_to_the_neurons_of_all_layers(open_page: OpenPage, tiny_cache: Path) -> None:
    app = open_page("app.py")
    run = next(run for run in list_runs(tiny_cache) if run.title == "Classify math")
    table = open_classification(run.results).neurons().query("category == 'code'").sort_values(["layer", "neuron"])
    bar = next(bar for bar in drawn(app).data if bar.name == "code")
    at = list(bar.y).index("math")
    assert bar.customdata[at] == ["math", None, "code"]
    shown = ("math", *table.iloc[0][["layer", "neuron"]], "code", [])
    assert click(app, "home_neurons", bar.customdata[at]) == shown
    assert app.dataframe[0].value["neuron"].tolist() == table["neuron"].tolist()[:12]


def test_sliders_redraw_from_the_stored_scores(open_page: OpenPage, tiny_cache: Path) -> None:
    app = open_page("pages/2_Neurons.py")
    runs = len(list_runs(tiny_cache))
    table = app.dataframe[0].value
    assert list(table.columns) == ["layer", "category", "base", "math", "intersection"]
    assert table["base"].sum() == LAYERS * D_FFN
    told = next(text.value for text in app.markdown if "of the texts shuffled it would be " in text.value)
    assert told.endswith(" % kept.")
    (agreed,) = app.dataframe[1].value.to_dict("records")
    assert (
        list(agreed) == ["model", "share", "kappa", "IoU general", "IoU math", "IoU code"] and agreed["model"] == "math"
    )
    assert agreed["share"] == pytest.approx(100 * table["intersection"].sum() / table["base"].sum())
    assert agreed["kappa"] <= 1
    assert list(table["category"][:3]) == ["general", "math", "code"]  # as everywhere, not as the files are sorted
    classified = open_classification(next(r for r in list_runs(tiny_cache) if r.title == "Classify base").results)
    counts = classified.neurons().groupby(["layer", "category"]).size()
    for row in table.to_dict("records"):  # k = 10 and m = 1 are what classify has used
        assert row["base"] == counts.get((row["layer"], row["category"]), 0)

    app.slider(key="neurons_k").set_value(1).run()
    assert not app.exception
    by_first = app.dataframe[0].value
    ids, _ = classified.top(0, 1)
    first = [classified.categories[classified.exemplar_categories[i]] for i in ids[:, 0]]
    in_layer_0 = by_first[by_first["layer"] == 0].set_index("category")["base"]
    assert in_layer_0.to_dict() == {category: first.count(category) for category in classified.categories}
    assert len(list_runs(tiny_cache)) == runs


def test_layers_choose_the_panels(open_page: OpenPage) -> None:
    app = open_page("pages/2_Neurons.py")
    assert len(drawn(app, 0).data) == LAYERS * 3
    app.multiselect(key="neurons_layers").set_value([1]).run()
    assert not app.exception
    assert len(drawn(app, 0).data) == 3


def test_layers_are_picked_or_typed_as_ranges(open_page: OpenPage) -> None:
    layers = range(80)
    assert read_layers([27, "0-2", "70-79/5", "1"], layers) == ([0, 1, 2, 27, 70, 75], [])
    assert read_layers(["78-90", "99", "first"], layers) == ([78, 79], ["99", "first"])
    assert usual_layers(layers) == [*range(0, 80, 10), 79] and usual_layers(range(4)) == [0, 1, 2, 3]
    assert usual_layers(range(28)) == [*range(0, 28, 5), 27]
    app = open_page("pages/2_Neurons.py", neurons_layers="0-1")
    assert len(drawn(app, 0).data) == LAYERS * 3 and any(text.value == "2 layers of 2" for text in app.caption)
    app.multiselect(key="neurons_layers").set_value([1, "7"]).run()
    assert len(drawn(app, 0).data) == 3 and any(text.value.startswith("7: expected layers") for text in app.caption)


def test_a_view_is_shared_by_its_address(open_page: OpenPage) -> None:
    app = open_page("pages/2_Neurons.py", neurons_k="3", neurons_m="2", neurons_layers="1", neurons_model="math")
    assert app.slider(key="neurons_k").value == 3
    assert app.slider(key="neurons_m").value == 2
    assert len(drawn(app, 0).data) == 3
    assert "in math" in drawn(app, 2).data[0].hovertext[0]


def test_what_is_missing_is_offered(open_page: OpenPage, tiny_cache: Path, no_worker: None) -> None:
    app = open_page("pages/2_Neurons.py")
    assert app.button(key="neurons_classify").label == "Classify 1 model"
    assert any("**code**" in text.value for text in app.markdown)
    app.checkbox(key="neurons_classify_statistics").check()
    app.checkbox(key="neurons_classify_layerwise").check().run()
    app.button(key="neurons_classify").click().run()
    assert not app.exception
    (run,) = [run for run in list_runs(tiny_cache) if run.title == "Classify code"]
    assert run.parameters["statistics"] is run.parameters["layerwise"] is True and run.status().state == "queued"
    shutil.rmtree(run.folder)  # as other tests have the family


def test_sure_neurons_are_told_from_others(open_page: OpenPage) -> None:
    app = open_page("pages/2_Neurons.py", neurons_sure="true", neurons_support="90", neurons_k="3")
    assert app.slider(key="neurons_support").value == 90
    bars = drawn(app, 0).data
    assert len(bars) == 2 * LAYERS * 3  # the sure part of each bar, and the rest
    (told,) = [text.value for text in app.markdown if "are sure and the same in all models" in text.value]
    solid = sum(sum(bar.y) for bar in bars[::2] if bar.legendgroup == "base")
    assert f"**{style.percent(solid / (LAYERS * D_FFN))}** of the base's neurons is sure" in told
    app.toggle(key="neurons_sure").set_value(False).run()
    assert not app.exception and len(drawn(app, 0).data) == LAYERS * 3


def test_what_rounding_decides_is_told_or_offered(
    open_page: OpenPage, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch, no_worker: None
) -> None:
    def in_bfloat16(family: Family, member: Member) -> dict[str, Any]:
        return {"model": member.reference, "corpus": family.corpus, "run_dtype": "bfloat16"}

    for module in (chosen, classified, exact):
        monkeypatch.setattr(module, "classify_parameters", in_bfloat16)
    family = load_family(tiny_cache / "families" / "tiny.yaml")
    asked = in_bfloat16(family, family.members[0])
    runs = [finish(tiny_cache, "classify", asked, "Classify base shortly")]
    app = open_page("pages/2_Neurons.py")
    app.button(key="neurons_exact").click().run()
    assert not app.exception
    (queued,) = [run for run in list_runs(tiny_cache) if run.title == "Classify base in float32"]
    assert any("a run in float32 is queued" in text.value for text in app.caption)
    shutil.rmtree(queued.folder)
    runs.append(finish(tiny_cache, "classify", asked | {"run_dtype": "float32"}, "Classify base in float32"))
    short, long = (open_classification(run.results).neurons()["category"] for run in runs)
    app.run()
    told = f"The base ran in bfloat16: {style.percent((short != long).mean())} of its neurons have another category"
    assert any(text.value.startswith(told) for text in app.caption)
    for run in runs:
        shutil.rmtree(run.folder)
