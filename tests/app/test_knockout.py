from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from nmerge_core.activations.store import open_classification
from nmerge_core.family import Member, load_family
from nmerge_core.figures.scores import metric
from nmerge_core.runs import client
from nmerge_core.runs.folder import Run
from pages.shared.knockout.controls import usual_models
from pages.shared.knockout.results import how_sure
from tests.app.conftest import OpenPage, vary_family
from tests.app.scored import FAMILY, click, done, drawn, make_family, models

PAGE = "pages/5_Knockout.py"


def classified(root: Path, name: str = "base") -> Run:
    return done(root, "classify", {"model": models(root)[name], "corpus": str(root / "corpus")})


def parameters(root: Path, model: str = "base", **changed: object) -> dict[str, object]:
    asked = {
        "model": models(root)[model],
        "neurons": classified(root).id,
        "category": "math",
        "layers": [0, 1],
        "proportions": [0.2, 0.4, 0.6, 0.8, 1.0],
        "task": make_family(root),
        "repeats": 2,
        "limit": 1,
    }
    return asked | changed


def by_loss(root: Path, model: str = "base", **changed: object) -> dict[str, object]:
    return parameters(root, model, task=None, loss=str(root / "corpus"), repeats=1, **changed)


def on_loss(root: Path, open_page: OpenPage, **query: Any) -> AppTest:
    asked = {"knockout_task": "held-out loss", "knockout_repeats": "1", "knockout_texts": "1"}
    return on_task(root, open_page, **asked, **query)


def on_task(root: Path, open_page: OpenPage, **query: Any) -> AppTest:
    """Open the page on the family's task, at the category math of the base."""
    make_family(root)
    asked = {"knockout_category": "math", "knockout_models": "base", "knockout_task": "plain"}
    asked |= {"knockout_repeats": "2", "knockout_limit": "1"}
    chosen = asked | query
    if "knockout_texts" in chosen:
        del chosen["knockout_limit"]
    return open_page(PAGE, family=FAMILY, **chosen)


def said(app: AppTest) -> str:
    return "\n".join(text.value for text in (*app.markdown, *app.caption))


def test_curve_control_and_reading_of_a_finished_run(tiny_cache: Path, open_page: OpenPage) -> None:
    run = done(tiny_cache, "knockout", parameters(tiny_cache))
    app = on_task(tiny_cache, open_page)
    figure = drawn(app)
    curves = {trace.name: trace for trace in figure.data if trace.name}
    assert set(curves) == {"math neurons", "as many random neurons"}
    assert curves["as many random neurons"].line.dash == "dash"
    assert list(curves["math neurons"].x) == pytest.approx([0, 20, 40, 60, 80, 100])
    assert len([trace for trace in figure.data if trace.fill]) == 2  # the category's draws differ as the random ones do
    neurons = open_classification(Path(run.parameters["neurons"])).neurons()
    count = int((neurons["category"] == "math").sum())
    assert f"With all {count:,} math neurons off" in said(app) and "95 % interval" in said(app)
    assert len(app.dataframe[0].value) == 2 * 6
    assert curves["as many random neurons"].customdata is None
    point = curves["math neurons"].customdata[5]
    first = neurons[neurons["category"] == "math"].sort_values(["layer", "neuron"]).iloc[0]
    assert point == ["base", None, "math"]
    assert click(app, "knockout_figure", point) == ("base", first["layer"], first["neuron"], "math", [])


@pytest.mark.parametrize(
    ("effect", "low", "high", "keep_only", "said"),
    [
        (0.123, 0.031, 0.215, False, "**12.3 points worse** … 3.1 points to 21.5 points worse;"),
        (0.08, -0.02, 0.18, False, "**8.0 points worse** … 2.0 points better to 18.0 points worse;"),
        (-0.05, -0.2, 0.1, False, "**5.0 points better** … 10.0 points worse to 20.0 points better;"),
        (0.05, 0.01, 0.09, True, "**5.0 points better** … 1.0 points to 9.0 points better;"),
    ],
)
def test_of_an_interval_it_is_said_which_end_is_worse(
    effect: float, low: float, high: float, keep_only: bool, said: str
) -> None:
    told = how_sure({"effect": effect, "low": low, "high": high, "adjusted": 0.03}, metric("acc"), keep_only)
    assert said.replace("…", "than with random ones (95 % interval:") in told
    assert told.endswith("adjusted p 0.03): more than chance.")


def test_models_are_drawn_side_by_side_by_the_base_s_neurons(tiny_cache: Path, open_page: OpenPage) -> None:
    for model in ("base", "math"):
        done(tiny_cache, "knockout", by_loss(tiny_cache, model))
    app = on_loss(tiny_cache, open_page, knockout_models=["base", "math"])
    figure = drawn(app)
    assert [title.text for title in figure.layout.annotations] == ["<b>base</b>", "<b>math</b>"]
    assert figure.layout.yaxis2.matches == "y"
    assert len(app.dataframe[0].value) == 2 * 2 * 6


def test_a_category_kept_alone_is_drawn_under_the_intact_model(tiny_cache: Path, open_page: OpenPage) -> None:
    done(tiny_cache, "knockout", by_loss(tiny_cache, keep_only=True))
    app = on_loss(tiny_cache, open_page, knockout_view="Keep alone")
    assert {trace.name for trace in drawn(app).data if trace.name} == {
        "intact model",
        "math neurons",
        "as many random neurons",
    }
    assert "math neurons alone kept" in said(app)


def test_a_heat_map_by_loss_of_each_category_and_list(tiny_cache: Path, open_page: OpenPage) -> None:
    vary_family(tiny_cache, "listed", neurons={"loud": ((1, 0), (1, 3))})
    asked: dict[str, object] = {
        "model": models(tiny_cache)["base"],
        "neurons": classified(tiny_cache).id,
        "layers": [0, 1],
    }
    asked |= {"loss": str(tiny_cache / "corpus"), "repeats": 1, "limit": 2, "lists": {"loud": [[1, 0], [1, 3]]}}
    done(tiny_cache, "effects", asked)
    settings = {"knockout_models": "base", "knockout_repeats": "1", "knockout_texts": "2"}
    app = open_page(PAGE, family="listed", knockout_view="Layer by layer", **settings)
    sure, pale = drawn(app).data
    assert list(sure.y) == ["general", "code", "math", "loud"] and (sure.coloraxis, pale.coloraxis) == (
        "coloraxis",
        "coloraxis2",
    )
    filled = [sum(value is not None for line in trace.z for value in line) for trace in (sure, pale)]
    assert sum(filled) == len(app.dataframe[0].value) == 7  # three categories in two layers, a list in one
    assert app.selectbox(key="knockout_metric").value == "own texts"
    points = [each[3][1] for each in (sure.customdata, pale.customdata)]  # a list's cell of layer 1, in one of both
    assert sorted(points, key=bool) == [None, ["base", 1, "loud"]]
    assert click(app, "knockout_map", ["base", 1, "loud"]) == ("base", 1, 0, "all neurons", [1])


def test_controls_start_at_the_run_the_address_names(tiny_cache: Path, open_page: OpenPage) -> None:
    run = done(tiny_cache, "knockout", parameters(tiny_cache, "code", category="code", layers=[1], limit=10))
    app = open_page(PAGE, family=FAMILY, run=run.id)
    assert app.selectbox(key="knockout_category").value == "code"
    assert app.multiselect(key="knockout_models").value == ["code"] and not app.toggle(key="knockout_own").value
    assert app.text_input(key="knockout_layers").value == "1"
    assert (app.number_input(key="knockout_repeats").value, app.number_input(key="knockout_limit").value) == (2, 10)
    assert drawn(app).data


@pytest.mark.usefixtures("no_worker")
def test_other_settings_offer_a_run_of_their_own(tiny_cache: Path, open_page: OpenPage) -> None:
    done(tiny_cache, "knockout", parameters(tiny_cache))
    app = on_task(tiny_cache, open_page)
    app.text_input(key="knockout_layers").set_value("1").run()
    app.number_input(key="knockout_repeats").set_value(4).run()
    assert "Earlier knock-outs" in [each.value for each in app.subheader]  # those of the other settings
    assert "Scores the model 38 times" in said(app)  # intact, 4 draws of 4 shares, the whole once, 4 of 5 random
    app.button(key="knockout_run").click().run()
    run = client.lookup("knockout", parameters(tiny_cache, layers=[1], repeats=4))
    assert run is not None
    client.cancel(run)
    app.text_input(key="knockout_layers").set_value("1-7").run()
    assert [error.value for error in app.error] == ["Expected layers from 0 to 1 such as 1,3-5; found 1-7."]


def test_without_tasks_the_loss_of_the_category_is_offered(tiny_cache: Path, open_page: OpenPage) -> None:
    app = open_page(PAGE)  # the family "tiny" has no tasks
    assert app.selectbox(key="knockout_task").value == "held-out loss"
    assert app.button(key="knockout_run") and "texts of each category" in said(app) and not app.error


def test_each_model_s_own_categories_are_made_first(tiny_cache: Path, open_page: OpenPage) -> None:
    known = models(tiny_cache)
    make_family(tiny_cache)
    vary_family(tiny_cache, "exchanged", base=known["math"], models=(Member(known["code"], "code", "code"),))
    classified(tiny_cache, "math")
    app = open_page(PAGE, family="exchanged", knockout_models="code", knockout_own="true")
    assert app.button(key="knockout_classify_code").label == "Classify 1 model"
    assert "knockout_run" not in [button.key for button in app.button]


def test_a_merge_is_knocked_out_beside_those_it_should_do_as_well_as(tiny_cache: Path) -> None:
    family = load_family(vary_family(tiny_cache, "merging"))
    assert usual_models(family, {}, "math") == ["base"]
    assert usual_models(family, {"newest": "here", "older": "there"}, "math") == ["base", "math", "newest"]
