from pathlib import Path

import pytest

from nmerge_core.activations.store import open_classification
from nmerge_core.runs import client
from tests.app.conftest import OpenPage
from tests.app.scored import FAMILY, done, drawn, make_family, models

PAGE = "pages/5_Knockout.py"


def parameters(root: Path, **changed: object) -> dict[str, object]:
    known = models(root)
    classified = done(root, "classify", {"model": known["base"], "corpus": str(root / "corpus")})
    asked = {
        "model": known["base"],
        "neurons": classified.id,
        "category": "math",
        "layers": [0, 1],
        "proportions": [0.2, 0.4, 0.6, 0.8, 1.0],
        "task": make_family(root),
        "repeats": 3,
        "limit": 100,
        "run_code": False,
    }
    return asked | changed


def test_curve_control_and_reading_of_a_finished_run(tiny_cache: Path, open_page: OpenPage) -> None:
    run = done(tiny_cache, "knockout", parameters(tiny_cache))
    app = open_page(PAGE, family=FAMILY, knockout_category="math")
    figure = drawn(app)
    curves = {trace.name: trace for trace in figure.data if trace.name}
    assert set(curves) == {"math neurons", "as many random neurons"}
    assert curves["as many random neurons"].line.dash == "dash"
    assert list(curves["math neurons"].x) == pytest.approx([0, 20, 40, 60, 80, 100])
    neurons = open_classification(Path(run.parameters["neurons"])).neurons()
    count = int((neurons["category"] == "math").sum())
    assert any(f"With all {count:,} of these math neurons off" in text.value for text in app.markdown)
    assert len(app.dataframe[0].value) == 2 * 6


def test_controls_start_at_the_run_the_address_names(tiny_cache: Path, open_page: OpenPage) -> None:
    asked = parameters(tiny_cache, category="code", layers=[1], repeats=2, limit=10)
    run = done(tiny_cache, "knockout", asked)
    app = open_page(PAGE, family=FAMILY, run=run.id)
    assert app.selectbox(key="knockout_category").value == "code"
    assert app.slider(key="knockout_layers").value == (1, 1)
    assert (app.number_input(key="knockout_repeats").value, app.number_input(key="knockout_limit").value) == (2, 10)
    assert drawn(app).data


@pytest.mark.usefixtures("no_worker")
def test_other_settings_offer_a_run_of_their_own(
    tiny_cache: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters(tiny_cache)
    app = open_page(PAGE, family=FAMILY, knockout_category="math")
    app.slider(key="knockout_layers").set_range(1, 1).run()
    app.number_input(key="knockout_repeats").set_value(4).run()
    assert any("26 times" in text.value for text in app.caption)  # intact, and 5 shares with 4 controls each
    app.button(key="knockout_run").click().run()
    run = client.lookup("knockout", parameters(tiny_cache, layers=[1], repeats=4))
    assert run is not None
    client.cancel(run)


def test_a_model_without_categories_is_classified_first(tiny_cache: Path, open_page: OpenPage) -> None:
    make_family(tiny_cache)
    app = open_page(PAGE, family=FAMILY, knockout_model="code")
    assert app.button(key="knockout_classify").label == "Classify 1 model"
    assert "knockout_run" not in [button.key for button in app.button]
