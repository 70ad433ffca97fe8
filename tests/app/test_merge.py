"""The Merge page's controls: methods, parameters, tokenizer, chat template, and many models as a table."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from streamlit.testing.v1 import AppTest

from nmerge_core.family import Member, load_family
from nmerge_core.merging.recipe import mergekit_recipe as mergekit
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.registry import methods
from nmerge_core.parameters.inputs import Input
from nmerge_core.parameters.values import Text
from nmerge_core.runs import client
from pages.shared.recipe.controls import control_states
from pages.shared.recipe.gallery import PICTURES
from tests.app.conftest import OpenPage, vary_family
from tests.app.recipes import PAGE, recipe_shown, written_as_yaml
from tests.app.scored import FAMILY, make_family, models
from tests.merging import vocabularies


def test_without_a_method_all_are_told_and_a_click_takes_one(tiny_cache: Path, open_page: OpenPage) -> None:
    app = open_page(PAGE)
    app.selectbox(key="merge_method").set_value(None).run()
    told = "\n".join(text.value for text in app.markdown)
    assert all(method.title in told and method.summary in told for method in methods().values())
    needs = [text.value for text in app.markdown if text.value.startswith("**Needs ")]
    assert needs == [
        "**Needs nothing but the models** · 22 more methods", "**Needs texts** · 5 more methods",
        "**Needs tasks** · 1 more method",
    ]  # fmt: skip
    begin, *_ = (told.index(text) for text in needs)
    first = [method for method in methods().values() if method.when]
    assert len(first) == 5 and all(told.index(f"**{method.title}**") < begin for method in first)
    assert all(f":material/flag: {method.when}" in told for method in first)
    app.button(key="merge_choose_ties").click().run()
    assert recipe_shown(app)["merge_method"] == "ties"
    assert recipe_shown(open_page(PAGE, merge_method="ties")) == recipe_shown(app)  # a name is understood too


@pytest.mark.parametrize("name", methods())
def test_controls_of_every_method_make_its_default_recipe(tiny_cache: Path, open_page: OpenPage, name: str) -> None:
    app = open_page(PAGE, merge_method=methods()[name].title)
    lacks = [text.value for text in app.markdown if "This family names no" in text.value]
    assert bool(app.error) <= bool(lacks), [error.value for error in app.error]
    shown = load_recipe(recipe_shown(app))
    method = methods()[name]
    for parameter in method.parameters:
        # what the family fills in, k and m as its neurons were classified by
        told = isinstance(parameter, Input | Text) or parameter.name in ("top_k", "margin")
        if not told and not parameter.per_model:
            assert shown.values().shared[parameter.name] == parameter.default, parameter.name
        elif not told:
            assert shown.values().each[parameter.name] == (parameter.default,) * len(shown.models), parameter.name
    chosen = ["math", "code"][: method.most]
    assert [entry.model for entry in shown.models] == [models(tiny_cache)[name] for name in chosen]
    tiny = load_family(tiny_cache / "families" / "tiny.yaml")
    states = control_states(shown, tiny, {}, {})  # a recipe opened in the controls leaves them as they made it
    for widget in (*app.slider, *app.selectbox, *app.toggle, *app.number_input, *app.multiselect):
        assert widget.value == states.get(widget.key, widget.value), widget.key


@pytest.mark.usefixtures("no_worker")
def test_a_preset_sets_its_parameters_and_leaves_the_others(tiny_cache: Path, open_page: OpenPage) -> None:
    recommended, paper = methods()["neuronmerge"].presets
    app = open_page(PAGE, merge_method="NeuronMerge")
    app.number_input(key="merge_seed").set_value(5).run()
    before = recipe_shown(app)
    assert any(preset.sentence in [text.value for text in app.caption] for preset in (recommended, paper))
    app.button(key="merge_preset_Recommended").click().run()
    assert not app.exception
    taken = load_recipe(recipe_shown(app)).values().shared["specific"]
    assert taken == load_recipe({**before, "parameters": recommended.parameters}).values().shared["specific"]
    assert recipe_shown(app)["seed"] == 5
    app.button(key="merge_preset_The paper's").click().run()
    assert load_recipe(recipe_shown(app)) == load_recipe(before)


@pytest.mark.usefixtures("no_worker")
def test_a_preset_is_of_every_model(tiny_cache: Path, open_page: OpenPage) -> None:
    app = open_page(PAGE, merge_method="Task arithmetic")
    app.slider(key="merge_task_arithmetic_weight_code").set_value(0.7).run()
    app.button(key="merge_preset_Recommended").click().run()
    assert not app.exception and load_recipe(recipe_shown(app)).values().each["weight"] == (0.4, 0.4)


@pytest.mark.usefixtures("no_worker")
def test_a_moved_slider_is_in_the_recipe_and_starts_another_merge(
    tiny_cache: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_page(PAGE, merge_method="TIES-Merging")
    app.slider(key="merge_ties_density_code").set_value(0.25).run()
    app.slider(key="merge_ties_lambda").set_value(0.5).run()
    recipe = recipe_shown(app)
    assert recipe["parameters"]["lambda"] == 0.5
    assert [model["parameters"]["density"] for model in recipe["models"]] == [0.2, 0.25]
    app.button(key="merge_run").click().run()
    run = client.lookup("merge", {"recipe": recipe})
    assert run is not None and run.title == "TIES-Merging, λ 0.5"
    client.cancel(run)


def test_whose_chat_template_is_chosen_and_said(tiny_cache: Path, open_page: OpenPage) -> None:
    app = open_page(PAGE, merge_method="TIES-Merging")
    assert "chat_template" not in recipe_shown(app)
    box = app.selectbox(key="merge_chat_template")
    assert box.options == ["as most", "the base's", "math's", "code's"]
    app.selectbox(key="merge_chat_template").set_value(models(tiny_cache)["code"]).run()
    assert recipe_shown(app)["chat_template"] == models(tiny_cache)["code"]
    assert any(each.value.startswith("Conversation: ") and each.value.endswith("of code") for each in app.text)


def test_the_tokenizer_is_the_bases_unless_chosen(tiny_cache: Path, open_page: OpenPage) -> None:
    app = open_page(PAGE, merge_method="TIES-Merging")
    assert "tokenizer" not in recipe_shown(app)
    box = app.selectbox(key="merge_tokenizer")
    assert box.options == ["the base's", "all tokens", "math's", "code's"]
    box.set_value("union").run()
    assert recipe_shown(app)["tokenizer"] == "union"
    app.selectbox(key="merge_tokenizer").set_value(models(tiny_cache)["code"]).run()
    assert not app.error and recipe_shown(app)["tokenizer"] == models(tiny_cache)["code"]


@pytest.mark.usefixtures("no_worker")
def test_models_with_other_tokens_need_a_tokenizer(
    tiny_cache: Path, open_page: OpenPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = vocabularies.make_family(tmp_path)
    tuned = tuple(Member(model, Path(model).name) for model in grown.models)
    file = vary_family(tiny_cache, "grown", base=grown.base, models=tuned)
    try:
        app = open_page(PAGE, merge_method="Task arithmetic", family="grown")
        assert any("key 'tokenizer': missing" in error.value for error in app.error)
        app.selectbox(key="merge_tokenizer").set_value("union").run()
        assert not app.error
        app.button(key="merge_run").click().run()
        run = client.lookup("merge", {"recipe": recipe_shown(app)})
        assert run is not None and run.title == "Task arithmetic, tokenizer union"
        client.cancel(run)
    finally:
        file.unlink()


@pytest.mark.usefixtures("no_worker")
def test_methods_of_mergekit_are_there_where_it_is(
    tiny_cache: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mergekit, "find_spec", lambda name: None)
    absent = open_page(PAGE)
    assert absent.selectbox(key="merge_method").options == [
        method.title for method in sorted(methods().values(), key=lambda each: not each.when)
    ]
    monkeypatch.setattr(mergekit, "find_spec", lambda name: object())
    monkeypatch.setattr(mergekit, "version", lambda package: "0.1.5")
    app = open_page(PAGE, merge_method="ramplus_tl (mergekit)")
    assert not app.error and not app.slider
    area = app.text_area(key="merge_yaml_ramplus_tl_tiny")
    started = yaml.safe_load(area.value)
    assert started["engine"] == "mergekit" and started["base_model"] == models(tiny_cache)["base"]
    area.set_value(area.value.replace("merge_method", "merge_metod")).run()
    assert any("did you mean 'merge_method'?" in error.value for error in app.error)
    area.set_value(yaml.safe_dump({**started, "models": started["models"][:1], "parameters": {"r": 0.2}})).run()
    assert not app.error
    app.button(key="merge_run").click().run()
    text = next(code.value for code in app.code if code.value.startswith("engine: mergekit"))
    run = client.lookup("merge", {"recipe": yaml.safe_load(text)})
    assert run is not None and run.title == "ramplus_tl by mergekit of math"
    client.cancel(run)


def test_a_family_s_tasks_are_what_a_search_scores(tiny_cache: Path, open_page: OpenPage) -> None:
    task = make_family(tiny_cache)
    app = open_page(PAGE, family=FAMILY, merge_method=methods()["pcb_es"].title)
    recipe = recipe_shown(app)
    assert recipe["parameters"]["tasks"] == [task]
    box = next(box for box in app.text_input if (box.key or "").startswith("merge_pcb_es_tasks"))
    box.set_value(f"{task}, math").run()
    assert recipe_shown(app)["parameters"]["tasks"] == [task, "math"]


def test_paths_follow_the_family(tiny_cache: Path, open_page: OpenPage) -> None:
    (tiny_cache / "elsewhere").mkdir(exist_ok=True)
    calibration = {"tiny": str(tiny_cache / "corpus"), "moved": str(tiny_cache / "elsewhere")}
    file = vary_family(tiny_cache, "moved", corpus=calibration["moved"])
    app = open_page(PAGE, merge_method=methods()["sublin"].title)
    for family in ("tiny", "moved", "tiny"):
        app.selectbox(key="family").set_value(family).run()
        assert recipe_shown(app)["parameters"]["calibration"] == calibration[family]
    file.unlink()


@pytest.fixture
def six(tiny_cache: Path) -> Iterator[str]:
    """A family of six fine-tunes."""
    math = tiny_cache / "models" / "math"
    tuned = [Member(str(shutil.copytree(math, tiny_cache / "six" / f"t{n}")), f"tune {n}") for n in range(6)]
    file = vary_family(tiny_cache, "six", models=tuple(tuned))
    yield "six"
    file.unlink()
    shutil.rmtree(tiny_cache / "six")


def edit(app: AppTest, row: int, column: str, value: object) -> None:
    """Type into a cell of the table of models."""
    sent = json.dumps({"edited_rows": {row: {column: value}}, "added_rows": [], "deleted_rows": []})
    states = app._tree.get_widget_states()
    states.widgets.add(id=app.dataframe[0].proto.id, string_value=sent)
    app._run(states)


def test_many_models_are_a_table_that_is_kept_and_in_the_link(six: str, open_page: OpenPage) -> None:
    app = open_page(PAGE, family=six, merge_method="TIES-Merging")
    assert not [slider for slider in app.slider if "tune" in slider.label]
    table = app.dataframe[0].value
    assert list(table.columns) == ["Fine-tune", "Weight", "Density"]
    assert list(table["Fine-tune"]) == [f"tune {n}" for n in range(6)]
    edit(app, 2, "Weight", 0.25)
    weights = [1.0, 1.0, 0.25, 1.0, 1.0, 1.0]
    assert [model["parameters"]["weight"] for model in recipe_shown(app)["models"]] == weights
    address = {name: value for name, value in app.query_params.items() if name.startswith("merge_ties_weight")}
    assert address == {"merge_ties_weight_tune 2": "0.25"}
    app.run()  # the table that the edit was typed into, as long as nobody else changes it
    assert [model["parameters"]["weight"] for model in recipe_shown(app)["models"]] == weights

    asked = {"merge_ties_weight_tune 2": "0.25", "merge_ties_density_tune 5": "seven"}
    app = open_page(PAGE, family=six, merge_method="TIES-Merging", **asked)
    assert list(app.dataframe[0].value["Weight"]) == weights
    assert [warning.value for warning in app.warning] == [
        "The address asks for **merge_ties_density_tune 5** = seven, which cannot be; shown is 0\\.2."
    ]


def test_a_table_s_recipe_goes_to_text_and_back(six: str, open_page: OpenPage) -> None:
    app = open_page(PAGE, family=six, merge_method="TIES-Merging")
    edit(app, 0, "Density", 0.5)
    assert "merge_ties_density_tune 0" in app.query_params
    written_as_yaml(app)
    assert "merge_ties_density_tune 0" not in app.query_params  # the text in the address says it
    edited = yaml.safe_load(app.text_area(key="merge_yaml").value)
    edited["models"][3]["parameters"]["density"] = 0.75
    app.text_area(key="merge_yaml").set_value(yaml.safe_dump(edited)).run()
    way: Any = app.get("button_group")[0]
    way.set_value("Controls").run()
    assert list(app.dataframe[0].value["Density"]) == [0.5, 0.2, 0.2, 0.75, 0.2, 0.2]
    assert load_recipe(recipe_shown(app)).content == load_recipe(edited).content


@pytest.mark.usefixtures("no_worker")
def test_a_recipe_of_slices_stays_text_and_is_written(tiny_cache: Path, open_page: OpenPage) -> None:
    """Its merge in memory can be followed, and a click starts the merge."""
    sources = [[{"model": models(tiny_cache)[name], "layer_range": [0, 1]}] for name in ("math", "code")]
    recipe = {"merge_method": "passthrough", "slices": [{"sources": each} for each in sources]}
    app = open_page(PAGE, merge_method="Passthrough")
    way: Any = app.get("button_group")[0]
    way.set_value("YAML").run()
    app.text_area(key="merge_yaml").set_value(yaml.safe_dump(recipe)).run()
    assert not app.error and recipe_shown(app)["slices"] == recipe["slices"]
    assert "merge_live" in [toggle.key for toggle in app.toggle]
    way = app.get("button_group")[0]
    way.set_value("Controls").run()
    assert any("The controls have no place for slices." in info.value for info in app.info)
    app.button(key="merge_run").click().run()
    run = client.lookup("merge", {"recipe": recipe_shown(app)})
    assert run is not None
    client.cancel(run)


def test_a_method_that_there_is_not_is_said(tiny_cache: Path, open_page: OpenPage) -> None:
    app = open_page(PAGE, merge_method="tyes")
    said = "The address asks for **merge_method** = tyes, which cannot be; shown is nothing."
    assert said in [warning.value for warning in app.warning]


def test_every_method_has_its_picture() -> None:
    assert {file.stem for file in PICTURES.glob("*.svg")} == {*methods()}
