"""Lists of neurons: kept with the family on the Explorer, and groups of their own in the controls of Merge."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from streamlit.testing.v1 import AppTest

from nmerge_core.activations.store import open_classification
from nmerge_core.errors import InputError
from nmerge_core.family import Family, keep_note, load_family
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.runs.folder import list_runs
from pages.shared.frame.drafts import packed
from pages.shared.neurons.exchange import exported, read_lists
from tests.app.conftest import OpenPage, vary_family
from tests.app.recipes import recipe_shown, written_as_yaml

LISTS = {"loud": ((0, 1), (1, 5)), "soft": ((0, 1), (0, 2))}
NAME, METHOD = "listed", "NeuronMerge"


@pytest.fixture
def listed(tiny_cache: Path) -> Iterator[Path]:
    """The file of a family that keeps two lists, which share a neuron."""
    file = vary_family(tiny_cache, NAME, neurons=LISTS)
    yield file
    file.unlink()


def opened(open_page: OpenPage, **query: str) -> AppTest:
    return open_page("pages/7_Merge.py", family=NAME, merge_method=METHOD, **query)


def add(app: AppTest, name: str) -> None:
    box = app.selectbox(key="merge_neuronmerge_lists_add")
    box.set_value(next(option for option in box.options if option.startswith(f"{name} · "))).run()
    assert not app.exception and not app.error, [error.value for error in app.error]


def test_neurons_are_kept_in_a_list_and_taken_out(tiny_cache: Path, open_page: OpenPage, asked_here: None) -> None:
    file = vary_family(tiny_cache, NAME)
    wanted = {"explorer_only": "math", "explorer_layers": "1"}
    app = open_page("pages/3_Explorer.py", family=NAME, layer="1", neuron="7", **wanted)
    run = next(run for run in list_runs(tiny_cache) if run.title == "Classify base")
    members = open_classification(run.results).neurons().query("layer == 1 and category == 'math'")["neuron"]
    app.text_input(key="explorer_list").set_value(" mine ").run()
    app.button(key="explorer_list_one").click().run()
    assert load_family(file).neurons == {"mine": ((1, 7),)}
    assert any(caption.value.endswith("In mine") for caption in app.caption)
    given: Any = app.get("file_uploader")[0]
    given.set_value(("lists.json", b'{"given": [[0, 2]]}', "application/json")).run()
    assert load_family(file).neurons == {"mine": ((1, 7),), "given": ((0, 2),)}
    app.button(key="explorer_list_forget_1").click().run()
    app.button(key="explorer_list_all").click().run()
    assert load_family(file).neurons == {"mine": tuple((1, neuron) for neuron in sorted({7, *members}))}
    assert app.button(key="explorer_list_one").label == "Take this neuron out"
    app.button(key="explorer_list_one").click().run()
    assert (1, 7) not in load_family(file).neurons["mine"]
    app.button(key="explorer_list_forget_0").click().run()
    assert not load_family(file).neurons
    app.text_input(key="explorer_list").set_value("code").run()
    app.button(key="explorer_list_one").click().run()
    assert "cannot be called “code”" in app.error[0].value and not load_family(file).neurons
    file.unlink()


def test_lists_of_a_file_are_checked() -> None:
    widths = {0: 4, 1: 6}
    assert read_lists(b'{"mine": [[0, 3], [1, 5], [0, 3]]}', widths) == ({"mine": [(0, 3), (1, 5)]}, {})
    noted = (b'{"notes": [[0, 4, "x"]]}', b'{"notes": [[0, 1]]}', b'{"notes": [[0, 1, 2]]}', b'{"notes": {"a": 1}}')
    lists = (b"", b"[]", b"{}", b'{"mine": [[0, 4]]}', b'{"mine": [[2, 0]]}', b'{"mine": [["a", 0]]}')
    for content in (*lists, *noted):
        with pytest.raises(InputError, match="expected JSON of"):
            read_lists(content, widths)


def test_lists_and_notes_are_exported_as_they_are_read() -> None:
    family = Family("mine", "b", (), neurons={"loud": ((0, 1), (1, 5))}, neuron_notes={(1, 2): "<b>*x*</b>"})
    content = json.dumps(exported(family)).encode()
    assert json.loads(content) == {"loud": [[0, 1], [1, 5]], "notes": [[1, 2, "<b>*x*</b>"]]}
    assert read_lists(content, {0: 4, 1: 6}) == ({"loud": [(0, 1), (1, 5)]}, {(1, 2): "<b>*x*</b>"})


NOTE = "*digits* :tada: <b>\nof years"


def test_a_note_is_written_shown_and_found(tiny_cache: Path, open_page: OpenPage, asked_here: None) -> None:
    file = vary_family(tiny_cache, NAME)
    app = open_page("pages/3_Explorer.py", family=NAME, layer="1", neuron="7", explorer_find="true")
    assert "with a note" not in app.selectbox(key="explorer_only").options
    box = next(area for area in app.text_area if area.label == "Note on neuron 7 of layer 1")
    box.set_value(NOTE).run()
    assert load_family(file).neuron_notes == {(1, 7): NOTE}
    assert NOTE in [text.value for text in app.text]  # letter by letter
    keep_note(NAME, (0, 3), "YEARS too", tiny_cache)
    keep_note(NAME, (0, 4), "brackets", tiny_cache)
    app.text_input(key="explorer_noted").set_value("years").run()
    found = app.dataframe[0].value
    assert found[["layer", "neuron", "note"]].to_numpy().tolist() == [[0, 3, "YEARS too"], [1, 7, NOTE]]
    app.text_input(key="explorer_noted").set_value("").run()
    app.selectbox(key="explorer_only").set_value("with a note").run()
    assert app.dataframe[0].value["neuron"].tolist() == [3, 4, 7]
    app.number_input(key="neuron").set_value(8).run()
    assert NOTE not in [text.value for text in app.text] and not app.exception
    file.unlink()


def test_a_note_that_another_page_has_changed_stays(tiny_cache: Path, open_page: OpenPage, asked_here: None) -> None:
    file = vary_family(tiny_cache, NAME, neuron_notes={(1, 7): "first"})
    app = open_page("pages/3_Explorer.py", family=NAME, layer="1", neuron="7")
    keep_note(NAME, (1, 7), "theirs", tiny_cache, before="first")
    next(area for area in app.text_area if area.value == "first").set_value("first, and mine").run()
    assert load_family(file).neuron_notes == {(1, 7): "theirs\n\nfirst, and mine"}
    assert next(area for area in app.text_area if area.label.startswith("Note on")).value.startswith("theirs")
    given: Any = app.get("file_uploader")[0]
    given.set_value(("lists.json", b'{"notes": [[1, 7, "given"], [0, 1, "more"]]}', "application/json")).run()
    assert load_family(file).neuron_notes == {(0, 1): "more", (1, 7): "theirs\n\nfirst, and mine\n\ngiven"}
    file.unlink()


def test_without_a_saved_list_the_way_to_one_is_told(tiny_cache: Path, open_page: OpenPage) -> None:
    app = open_page("pages/7_Merge.py", merge_method=METHOD)
    assert any("keeps no list yet" in caption.value for caption in app.caption)
    assert "lists" not in recipe_shown(app)["parameters"]


def test_a_saved_list_is_a_group_with_a_choice_of_its_own(listed: Path, open_page: OpenPage) -> None:
    app = opened(open_page)
    add(app, "loud")
    choice = app.selectbox(key="merge_neuronmerge_lists_loud")
    assert choice.label == "loud · 2 neurons of layers 0, 1" and choice.value == "drop"
    assert "own" not in choice.options and {"own of math", "own of code"} < set(choice.options)
    assert recipe_shown(app)["parameters"]["lists"] == {"loud": [[0, 1], [1, 5]]}
    choice.set_value("ties").run()
    app.number_input(key="merge_neuronmerge_lists_loud_ties_density").set_value(0.3).run()
    ties = {"method": "ties", "density": 0.3}
    assert recipe_shown(app)["parameters"]["specific"] == {"math": "drop", "code": "drop", "loud": ties}
    app.selectbox(key="merge_neuronmerge_lists_loud").set_value("own of code").run()
    assert recipe_shown(app)["parameters"]["specific"]["loud"] == {"method": "own", "of": "code"}
    assert not app.error
    again = opened(open_page, **{name: str(value) for name, value in app.query_params.items() if "lists" in name})
    assert recipe_shown(again)["parameters"]["lists"] == {"loud": [[0, 1], [1, 5]]} and not again.warning
    app.button(key="merge_neuronmerge_lists_loud_remove").click().run()
    assert "lists" not in recipe_shown(app)["parameters"] and recipe_shown(app)["parameters"]["specific"] == "drop"


def test_a_neuron_of_two_lists_goes_with_the_upper_one(listed: Path, open_page: OpenPage) -> None:
    app = opened(open_page)
    add(app, "loud")
    add(app, "soft")
    assert recipe_shown(app)["parameters"]["lists"] == {"loud": [[0, 1], [1, 5]], "soft": [[0, 2]]}
    assert any(caption.value == "1 neuron of it is merged with a list above." for caption in app.caption)
    app.button(key="merge_neuronmerge_lists_soft_up").click().run()
    assert list(recipe_shown(app)["parameters"]["lists"].items()) == [("soft", [[0, 1], [0, 2]]), ("loud", [[1, 5]])]
    assert not app.error


def test_a_recipe_with_lists_goes_to_text_and_back_and_nothing_is_lost(listed: Path, open_page: OpenPage) -> None:
    app = opened(open_page)
    add(app, "loud")
    written_as_yaml(app)
    edited = yaml.safe_load(app.text_area(key="merge_yaml").value)
    edited["parameters"]["lists"] = {"odd ones": [[1, 7]], "loud": [[0, 3]]}
    edited["parameters"]["specific"] = {
        "math": {"method": "own", "of": "code"},
        "odd ones": {"method": "ties", "density": 0.3},
        "code": {"method": "amplify", "own": 2.5, "foreign": 0.8, "by": {"method": "ties", "density": 0.3}},
        "loud": {"method": "amplify", "own": 3.0, "foreign": 1.0, "by": "sublin", "of": "math"},
    }
    wanted = load_recipe(edited)
    app.text_area(key="merge_yaml").set_value(yaml.safe_dump(edited, sort_keys=False)).run()
    way: Any = app.get("button_group")[0]
    way.set_value("Controls").run()
    assert not app.exception and not app.error and not app.info
    assert app.selectbox(key="merge_neuronmerge_specific_math").value == "own of code"
    found = recipe_shown(app)
    assert app.slider(key="merge_neuronmerge_specific_code_amplify_own").value == 2.5
    assert found["parameters"]["specific"] == edited["parameters"]["specific"]
    assert load_recipe(found).content == wanted.content
    assert list(found["parameters"]["lists"]) == ["odd ones", "loud"]


def test_a_list_that_is_called_as_a_category_is_told(listed: Path, open_page: OpenPage) -> None:
    app = opened(open_page)
    written_as_yaml(app)
    edited = yaml.safe_load(app.text_area(key="merge_yaml").value)
    edited["parameters"] |= {"lists": {"math": [[0, 1]]}, "specific": "drop"}
    app.text_area(key="merge_yaml").set_value(yaml.safe_dump(edited)).run()
    way: Any = app.get("button_group")[0]
    way.set_value("Controls").run()
    assert not app.exception and "expected names other than" in app.error[0].value


def test_what_is_no_list_in_the_address_is_none(listed: Path, open_page: OpenPage) -> None:
    app = opened(open_page, **{f"merge_lists_{NAME}": packed('{"loud": [[0]]}') or ""})
    assert not app.exception and "lists" not in recipe_shown(app)["parameters"]
