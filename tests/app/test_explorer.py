import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from nmerge_core.activations.store import open_classification
from nmerge_core.family import Member
from nmerge_core.figures import texts
from nmerge_core.loading import load_model
from nmerge_core.neuron.on_text import continued, strongest
from nmerge_core.neuron.overview import overview
from nmerge_core.runs.folder import list_runs
from pages.shared.frame.choice import decimals
from tests.app.conftest import OpenPage, vary_family
from tests.app.scored import done
from tests.families import family_of
from tests.tiny import D_FFN
from tests.tiny_images import draw_colours, tiny_vit

PINK = "#CC79A7"
OPEN = {"explorer_find": "true"}


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 0.0), (1.0, 1.0), (1 / 9, 0.05 + 0.95 * np.log10(2)), (2.0, 1.0)],  # 1 + 9 · 1/9 = 2
)
def test_opacity(share: float, expected: float) -> None:
    assert texts.opacity(share) == pytest.approx(expected)


def test_tokens_are_shaded_escaped_and_windowed() -> None:
    cell = texts.Cell("m", ["<b>", " two", " three", " four"], [0.0, 0.5, -4.5, 0.0], peak=4.5, note="")
    shaded = texts.shaded(cell, PINK)
    assert shaded.startswith("&lt;b&gt; <span")
    # r = 0.5 / 4.5 = 1/9, so the opacity is 0.05 + 0.95·log10(2) = 0.336; r = 1 has opacity 1.
    assert "rgba(204,121,167,0.336)" in shaded and "rgba(204,121,167,1.000)" in shaded
    assert shaded.count("dotted") == 1  # the negative one
    assert 'title="φ = -4.5"' in shaded
    assert texts.shaded(cell, PINK, window=1).startswith("… <span")
    assert "four" in texts.shaded(cell, PINK, window=1) and "&lt;" not in texts.shaded(cell, PINK, window=1)


def test_votes_are_squares_in_order() -> None:
    squares = texts.votes(["math", "code"], {"math": "#111111", "code": "#222222"})
    assert squares.index("#111111") < squares.index("#222222")
    assert squares.count("<i ") == 2


def grid_of(app: AppTest) -> str:
    return next(body for element in app.get("html") if "neuron-grid" in (body := element.proto.body))


def test_a_neuron_by_its_link_with_tokens_from_the_worker(open_page: OpenPage, tiny_cache: Path) -> None:
    app = open_page("pages/3_Explorer.py", model="math", layer="1", neuron="7")
    assert not app.warning
    said = next(text.value for text in app.markdown if text.value.startswith("Layer 1, neuron 7"))
    run = next(run for run in list_runs(tiny_cache) if run.title == "Classify math")
    found = open_classification(run.results)
    neurons = found.neurons()
    own = neurons[(neurons["layer"] == 1) & (neurons["neuron"] == 7)].iloc[0]
    assert f"a **{own['category']}** neuron in math" in said
    grid = grid_of(app)
    first = own["exemplars"][0]
    assert f"number 1 · score {found.top(1)[1][7, 0]:#.3g}".rstrip(".") in grid
    # The strongest token is drawn at full opacity, and its value is the stored score (up to its sign).
    assert ",1.000)" in grid
    text = found.exemplars().set_index("id").at[first, "text"]
    assert text[0] in grid


def test_next_and_previous_go_round_the_ends(open_page: OpenPage) -> None:
    app = open_page("pages/3_Explorer.py", layer="1", neuron=str(D_FFN - 1))
    app.button(key="explorer_next").click().run()
    assert (app.selectbox(key="layer").value, app.number_input(key="neuron").value) == (0, 0)
    app.button(key="explorer_prev").click().run()
    assert (app.selectbox(key="layer").value, app.number_input(key="neuron").value) == (1, D_FFN - 1)


def test_a_layer_has_its_own_number_of_neurons(open_page: OpenPage, tiny_cache: Path, made_family) -> None:
    """24 neurons in the dense layer, 60 in the mixture of experts above it."""
    mixture = made_family(family_of("DeepSeek-V3"))
    done(tiny_cache, "classify", {"model": mixture.base, "corpus": str(tiny_cache / "corpus")})
    file = vary_family(tiny_cache, "mixture", base=mixture.base, models=(Member(mixture.math, "math"),))
    app = open_page("pages/3_Explorer.py", family="mixture", layer="1", neuron="59")
    assert app.number_input(key="neuron").max == 59 == app.number_input(key="neuron").value and not app.warning
    assert any(each.value == ":small[84 of 84 found]" for each in app.markdown)  # 24 + 60
    app.selectbox(key="layer").select(0).run()
    file.unlink()
    assert not app.exception
    assert (app.number_input(key="neuron").max, app.number_input(key="neuron").value) == (23, 0)


def test_images_are_shown_with_the_patch_that_excites_a_neuron(
    open_page: OpenPage, tiny_cache: Path, asked_here: None
) -> None:
    """The base and a fine-tune that is the same: the 5 strongest images, shaded, and their top patches."""
    (draw_colours(tiny_cache / "pictures") / "blue").rename(tiny_cache / "pictures" / "general")
    tiny_vit(tiny_cache / "vit", ["a", "b"])
    vit, corpus = str(tiny_cache / "vit"), str(tiny_cache / "pictures")
    file = vary_family(tiny_cache, "seeing", base=vit, models=(Member(vit, "same", "red"),), corpus=corpus)
    for page in ("pages/2_Neurons.py", "pages/3_Explorer.py"):  # no tokenizer is missed
        assert open_page(page, family="seeing").button(key=f"{page[8:-3].lower()}_classify").label.endswith("2 models")
    run = done(tiny_cache, "classify", {"model": vit, "corpus": corpus})
    app = open_page("pages/3_Explorer.py", family="seeing", layer="1", neuron="3")
    assert not app.error and [each.label for each in app.text_area] == ["Note on neuron 3 of layer 1"]  # no own text
    [shown] = [html.proto.body for html in app.get("html") if "neuron-grid" in html.proto.body]
    found = open_classification(run.results)
    assert found.grid
    patches = [found.grid.patch(token) for token in found.positions(1)[3][:5].tolist()]
    assert shown.count("data:image/png") == 20 and shown.count("box-shadow") == 4 * (5 - patches.count(None))
    assert not app.warning and "the neuron's highest score" in shown
    app = open_page("pages/2_Neurons.py", family="seeing")
    assert not app.error and any("causal language models alone" in each.value for each in app.caption)
    file.unlink()


def test_stepping_stays_among_what_is_found(open_page: OpenPage, tiny_cache: Path) -> None:
    app = open_page(
        "pages/3_Explorer.py", explorer_only="math", explorer_order="certainty", explorer_layers="1", **OPEN
    )
    run = next(run for run in list_runs(tiny_cache) if run.title == "Classify base")
    found = overview(open_classification(run.results)).query("category == 'math' and layer == 1")
    found = found.sort_values(["lead", "selectivity"], ascending=False, kind="stable")
    expected = list(found["neuron"][:12])
    shown = app.dataframe[0].value
    assert list(shown["neuron"]) == expected and set(shown["base"]) == {"math"}
    for neuron in expected[:2]:  # neuron 0 of layer 0 is none of them: the first is next
        app.button(key="explorer_next").click().run()
        assert (app.selectbox(key="layer").value, app.number_input(key="neuron").value) == (1, neuron)
    assert list(app.dataframe[0].value["here"]).index("▶") == 1
    quick: Any = next(each for each in app.get("button_group") if each.key == "explorer_quick")
    quick.set_value("other category in math").run()
    assert not app.exception
    assert (app.selectbox(key="explorer_only").value, app.selectbox(key="explorer_order").value) == (
        "other category in math",
        "certainty",
    )
    shown = app.dataframe[0].value
    assert (shown["base"] != shown["math"]).all()
    every = overview(open_classification(run.results)).query("layer == 1")
    last = every.sort_values(["lead", "selectivity"], ascending=False, kind="stable")["neuron"].iloc[-1]
    app.number_input(key="neuron").set_value(int(last)).run()
    app.selectbox(key="explorer_only").set_value("all neurons").run()
    assert [each.value for each in app.caption if each.value.startswith("Rows ")] == ["Rows 1 to 12 of 48"]


def test_neurons_are_found_by_the_token_they_fire_on(open_page: OpenPage, tiny_cache: Path, asked_here: None) -> None:
    """Tokens of the tiny models are bytes: "(" is in three texts."""
    run = next(run for run in list_runs(tiny_cache) if run.title == "Classify base")
    found = open_classification(run.results)
    corpus = found.exemplars().sort_values("id")["text"].to_list()
    expected = {}
    for layer in found.layers:
        for neuron, (ids, places) in enumerate(zip(found.top(layer, 10)[0], found.positions(layer, 10), strict=True)):
            hits = sum(corpus[id].encode()[place : place + 1] == b"(" for id, place in zip(ids, places, strict=True))
            if hits:
                expected[layer, neuron] = hits
    app = open_page("pages/3_Explorer.py", explorer_fires="(", **OPEN)
    shown = app.dataframe[0].value
    assert any(each.value.endswith(f"of {len(expected)}") for each in app.caption)
    assert list(shown["fires on it"]) == sorted(expected.values(), reverse=True)[:12]
    assert all(
        expected[row.layer, row.neuron] == hits
        for row, hits in zip(shown.itertuples(), shown["fires on it"], strict=True)
    )


def test_the_best_hit_of_a_text_is_shown(open_page: OpenPage, asked_here: None) -> None:
    app = open_page("pages/3_Explorer.py", layer="1", neuron="7", **OPEN)
    app.text_input(key="explorer_fires").set_value("1").run()
    first = app.dataframe[0].value.iloc[0]
    place = app.selectbox(key="layer").value, app.number_input(key="neuron").value
    assert first["here"] == "▶" and place == (first["layer"], first["neuron"]) != (1, 7)
    app.number_input(key="neuron").set_value(7).run()
    assert app.number_input(key="neuron").value == 7  # as long as the text is the same
    linked = open_page("pages/3_Explorer.py", layer="1", neuron="7", explorer_fires="1", **OPEN)
    assert (linked.selectbox(key="layer").value, linked.number_input(key="neuron").value) == (1, 7)


def test_an_own_text_is_read_by_every_model(open_page: OpenPage) -> None:
    app = open_page("pages/3_Explorer.py")
    app.text_area(key="explorer_text").input("<i>3 + 4</i>").run()
    assert not app.exception
    own = [element.proto.body for element in app.get("html") if "neuron-grid" in element.proto.body][-1]
    assert own.count('class="cell"') == 2
    assert "<i>3" not in own


@pytest.mark.parametrize(
    ("page", "controls"),
    [
        ("3_Explorer", ("neuron", "explorer_token")),
        ("5_Knockout", ("knockout_repeats", "knockout_texts")),
        ("8_Evaluate", ("evaluate_limit", "evaluate_shots")),
    ],
)
def test_an_address_with_a_number_of_five_thousand_digits_is_refused(
    open_page: OpenPage, asked_here: None, page: str, controls: tuple[str, ...]
) -> None:
    """Which Python reads neither as a whole number nor, but as infinity, as a float."""
    asked = dict.fromkeys(controls, "9" * 5000)
    app = open_page(f"pages/{page}.py", **asked)
    assert sum("The address asks for" in each.value for each in app.warning) == len(controls)
    if page == "3_Explorer":
        own = {"explorer_view": "A text of yours", "explorer_text_read": "3 + 4", "explorer_more": "0"}
        app = open_page(f"pages/{page}.py", **asked, **own)
        assert app.query_params["explorer_token"] == "4"  # the last of "3 + 4"


def test_a_text_of_ones_own_has_the_strongest_neurons_of_every_model(
    open_page: OpenPage, tiny_cache: Path, asked_here: None
) -> None:
    asked = {"explorer_view": "A text of yours", "explorer_text_read": "<i>3 + 4", "explorer_more": "2"}
    app = open_page("pages/3_Explorer.py", model="math", explorer_token="3", **asked)
    assert not app.warning and not app.info
    assert any(text.value.startswith("**At '3'** the strongest neurons") for text in app.markdown)
    [shown] = [body for element in app.get("html") if "strong-grid" in (body := element.proto.body)]
    links = re.findall(r"model=(\w+)&amp;layer=(\d)&amp;neuron=(\d+)", shown)
    assert [model for model, *_ in links] == ["base"] * 8 + ["math"] * 8
    runs = {run.title: run for run in list_runs(tiny_cache)}
    found = open_classification(runs["Classify math"].results)
    read = continued(load_model(found.meta["model"]), "<i>3 + 4", 2)
    expected = strongest(load_model(found.meta["model"]), found, read.ids, 8)[3]
    assert [(int(layer), int(neuron)) for model, layer, neuron in links if model == "math"] == [
        (each.layer, each.neuron) for each in expected
    ]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([8.5, 8.39, 10.3], "%.2f"), ([99.5, -3.0], "%.1f"), ([1234.5], "%.0f"), ([0.0123], "%.4f"), ([0.0], "%.2f")],
)
def test_a_column_has_one_format_that_gives_its_middle_number_three_digits(numbers: list[float], expected: str) -> None:
    assert decimals(numbers) == expected


def test_scores_in_the_table_have_as_many_decimals(open_page: OpenPage) -> None:
    table = open_page("pages/3_Explorer.py", **OPEN).dataframe[0]
    written = json.loads(table.proto.columns)["score"]["type_config"]["format"]
    assert written == decimals(table.value["score"])


def test_without_a_classification_the_page_leads_to_one(open_page: OpenPage, tiny_cache: Path, tmp_path: Path) -> None:
    other = vary_family(tiny_cache, "other", corpus=str(tmp_path))
    app = open_page("pages/3_Explorer.py", family="other")
    other.unlink()
    assert app.button(key="explorer_classify").label == "Classify all 3 models"


def test_every_setting_is_in_the_link_and_what_cannot_be_shown_is_said(open_page: OpenPage) -> None:
    asked = {"explorer_count": "2", "explorer_way": "random", "explorer_only": "math", "explorer_text": "2+2"}
    app = open_page("pages/3_Explorer.py", layer="99", neuron="seven", **asked)
    assert (app.slider(key="explorer_count").value, app.session_state["explorer_way"]) == (2, "random")
    assert app.selectbox(key="explorer_only").value == "math"
    assert app.text_area(key="explorer_text").value == "2+2"
    told = "The address asks for **{}** = {}, which cannot be; shown is 0."
    assert {warning.value for warning in app.warning} == {told.format("layer", 99), told.format("neuron", "seven")}


def test_spaces_and_line_breaks_are_kept() -> None:
    cell = texts.Cell(
        "m", ["def f():", "\n", "    ", " return", "\tx  y"], [1.0, 0.0, 0.0, 2.0, 0.5], peak=2.0, note=""
    )
    plain = re.sub(r"<[^>]*>", "", texts.shaded(cell, PINK))
    assert plain == "def f():↵\n     return\tx  y"
    assert "white-space: pre-wrap" in texts.grid(["m"], [("", PINK, [cell])])


def test_narrow_columns_wrap_and_then_name_their_model() -> None:
    cells = [texts.Cell(f"model {i}", ["a"], [1.0], peak=1.0, note="") for i in range(4)]
    drawn = texts.grid(["head"] * 4, [("", PINK, cells)])
    assert f"@container (max-width: {4 * texts.READABLE}px)" in drawn
    assert all(f"<b>model {i} · </b>" in drawn for i in range(4))


def test_many_models_are_a_table_with_some_beside_each_other(tiny_cache: Path, open_page: OpenPage) -> None:
    tuned = []
    for number in range(5):
        reference = tiny_cache / "models" / f"more {number}"
        shutil.copytree(tiny_cache / "models" / "math", reference, dirs_exist_ok=True)
        done(tiny_cache, "classify", {"model": str(reference), "corpus": str(tiny_cache / "corpus")})
        tuned.append(Member(str(reference), f"more {number} {'-' * 150}"))
    file = vary_family(tiny_cache, "many", models=tuple(tuned))
    app = open_page("pages/3_Explorer.py", family="many")
    file.unlink()
    assert len(app.multiselect(key="explorer_beside").value) == 3
    assert grid_of(app).count('class="head"') == 4
    table = next(each.value for each in app.dataframe if "model" in each.value)
    assert list(table["model"]) == ["base", *(model.label for model in tuned)]
