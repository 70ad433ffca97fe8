"""The sections that show a merge beside its models: its health, and where it departs from them."""

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from nmerge_core.family import Family, load_family
from nmerge_core.merging.recipe.reading import load_recipe
from pages.shared.frame.beside import names_of

TEXT = "def f(x):\n    return x  # <b>$x$</b>"


@pytest.fixture
def family(tiny_cache: Path, asked_here: None, monkeypatch: pytest.MonkeyPatch) -> Family:
    """The tiny family."""
    monkeypatch.setenv("NMERGE_CACHE", str(tiny_cache))
    return load_family(tiny_cache / "families" / "tiny.yaml")


def section(section: str, family: Family, method: str, **parameters: Any) -> AppTest:
    models = [{"model": member.reference} for member in family.models]
    content = {"merge_method": method, "models": models, "parameters": parameters}
    content |= {} if method == "linear" else {"base_model": family.base}

    def script(section: str, content, family, text: str) -> None:
        from nmerge_core.merging.recipe.reading import load_recipe
        from pages.shared.tuning.health import draw_health
        from pages.shared.tuning.strip import draw_strip

        if section == "health":
            draw_health(load_recipe(content), family)
        else:
            draw_strip(load_recipe(content), family, text)

    app = AppTest.from_function(script, args=(section, content, family, TEXT), default_timeout=60).run()
    assert not app.exception, app.exception
    return app


def test_models_of_one_name_are_told_apart(family: Family) -> None:
    """The recipe has the family's math, one called so that is another's, and one that nobody else is called."""
    models = [{"model": reference} for reference in (family.models[0].reference, "elsewhere/math", "elsewhere/law")]
    names = names_of(load_recipe({"merge_method": "linear", "models": models}), family)
    assert list(names.values()) == ["base", "math", "elsewhere/math", "law"]


def told(app: AppTest) -> str:
    return "\n".join(each.value for each in [*app.markdown, *app.caption, *app.info, *app.warning])


def test_health_says_what_is_wrong_and_draws_the_chosen_measure(family: Family) -> None:
    """A sum of changes that have nothing in common, thrice as long as it should be."""
    app = section("health", family, "task_arithmetic", **{"lambda": 3.0})
    assert "warning:] **How far it went**: In the MLP of layer" in told(app) or "In the attention of layer" in told(app)
    assert "further than all their changes added up" in told(app)
    assert "of math, " in told(app) and "of code" in told(app) and "**Hidden states**" in told(app)
    app.segmented_control(key="health_measure").select("Hidden states").run()
    assert "On 6 texts of the corpus." in told(app)


def test_of_an_average_changes_are_measured_from_the_family_s_base(family: Family) -> None:
    app = section("health", family, "linear")
    assert "The recipe names no base: changes are measured from the family's." in told(app)
    assert ":material/check: **How far it went**" in told(app)


def test_a_recipe_that_cannot_follow_says_so_once(family: Family) -> None:
    app = section("health", family, "lorahub", calibration=family.corpus)
    assert ["goes by what is not measured yet" in each.value for each in app.info] == [True]


def test_the_strip_shows_who_moved_at_the_token_where_they_differ_most(family: Family) -> None:
    app = section("strip", family, "task_arithmetic", **{"lambda": 0.5})
    assert "from math" in told(app) and "nats from base" in told(app)
    table = app.dataframe[0].value
    assert list(table) == ["layer", "neuron", "the merge", "base", "category", "explorer"]
    assert len(table) == 2 * 3 and table["explorer"][0].startswith("/Explorer?family=tiny&model=base&layer=")
    app.segmented_control(key="strip_model").select("code").run()
    assert "nats from code" in told(app)
    assert list(app.dataframe[0].value) == ["layer", "neuron", "the merge", "code"]  # which is not classified
