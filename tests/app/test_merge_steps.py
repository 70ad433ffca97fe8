"""Steps after a method and recipes in stages on the Merge page: chosen, set, in the text and back."""

from pathlib import Path

import yaml

from tests.app.conftest import OpenPage
from tests.app.recipes import PAGE, recipe_shown, turned_to_controls, written_as_yaml


def test_steps_are_chosen_and_set_and_go_into_the_text_and_back(tiny_cache: Path, open_page: OpenPage) -> None:
    app = open_page(PAGE, merge_method="TIES-Merging")
    assert "then" not in recipe_shown(app)
    app.multiselect(key="merge_then").set_value(["svc", "aim"]).run()
    app.slider(key="merge_aim_omega").set_value(0.7).run()
    assert not app.exception and not app.error
    then = recipe_shown(app)["then"]
    assert [each["method"] for each in then] == ["svc", "aim"] and then[1]["omega"] == 0.7
    assert then[1]["category"] == "general" and Path(then[1]["corpus"]).is_dir()  # the family's
    written_as_yaml(app)
    text = yaml.safe_load(app.text_area(key="merge_yaml").value)
    assert text["then"] == then
    text["then"] = [{**then[1], "omega": 0.2}, {"method": "svc", "alpha": 0.5}]
    app.text_area(key="merge_yaml").set_value(yaml.safe_dump(text)).run()
    turned_to_controls(app)
    assert app.multiselect(key="merge_then").value == ["aim", "svc"]
    assert [app.slider(key=key).value for key in ("merge_aim_omega", "merge_svc_alpha")] == [0.2, 0.5]
    assert [each["method"] for each in recipe_shown(app)["then"]] == ["aim", "svc"]
    app.selectbox(key="merge_method").set_value("linear").run()
    assert "then" not in recipe_shown(app) and "merge_then" not in [each.key for each in app.multiselect]


def test_a_recipe_with_a_step_twice_stays_text(tiny_cache: Path, open_page: OpenPage) -> None:
    app = open_page(PAGE, merge_method="TIES-Merging")
    written_as_yaml(app)
    text = yaml.safe_load(app.text_area(key="merge_yaml").value) | {"then": ["svc", {"method": "svc", "alpha": 0.5}]}
    app.text_area(key="merge_yaml").set_value(yaml.safe_dump(text)).run()
    assert [each["alpha"] for each in recipe_shown(app)["then"]] == [0.1, 0.5]
    turned_to_controls(app)
    assert any("The controls have each step once." in info.value for info in app.info)


def test_a_recipe_in_stages_is_text_with_its_cost_and_how_it_is_computed(tiny_cache: Path, open_page: OpenPage) -> None:
    app = open_page(PAGE, merge_method="TIES-Merging")
    written_as_yaml(app)
    first = yaml.safe_load(app.text_area(key="merge_yaml").value)
    last = {"merge_method": "linear", "models": [{"model": "both"}, first["models"][0]]}
    app.text_area(key="merge_yaml").set_value(yaml.safe_dump({"stages": {"both": first}, **last})).run()
    assert not app.exception and not app.error
    assert "merge_run" in [button.key for button in app.button]
    assert any("Stages, and mergekit's own methods, are merged to the disk alone" in each.value for each in app.caption)
    assert any("Stage both" in text.value and "Stage of the output" in text.value for text in app.markdown)
    assert any(text.value.startswith("Stage both: written once, ") for text in app.text)
    turned_to_controls(app)
    assert any("no place for stages" in info.value for info in app.info)
    assert yaml.safe_load(app.text_area(key="merge_yaml").value)["stages"].keys() == {"both"}
