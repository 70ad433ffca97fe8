from pathlib import Path

import pandas as pd
import pytest

from nmerge_core.activations.store import open_classification
from nmerge_core.family import Member
from nmerge_core.neuron.overview import overview
from nmerge_core.runs import client
from nmerge_core.runs.folder import list_runs
from tests.app.conftest import OpenPage, vary_family
from tests.app.scored import done, drawn, models

PAGE = "pages/4_Similarity.py"


def parameters(root: Path) -> dict[str, object]:
    known = models(root)
    return {"base": known["base"], "models": [known["math"], known["code"]]}


def test_a_finished_run_is_drawn_and_read_out(tiny_cache: Path, open_page: OpenPage) -> None:
    run = done(tiny_cache, "cosine", parameters(tiny_cache))
    app = open_page(PAGE)
    assert "similarity_run" not in [button.key for button in app.button]
    figure = drawn(app)
    assert [(line.name, line.xaxis) for line in figure.data] == [
        (model, axis) for axis in ("x", "x2", "x3") for model in ("math", "code")
    ]
    summary = pd.read_csv(run.results / "cosine.csv")
    gate = summary[(summary["model"] == "code") & (summary["matrix"] == "gate")].sort_values("layer")
    assert list(figure.data[1].y) == pytest.approx(list(gate["mean"]))
    said = "\n".join(text.value for text in app.markdown)
    assert f"between **{summary['mean'].min():.4f}**" in said and f"and **{summary['mean'].max():.4f}**" in said


def test_the_table_follows_model_and_matrix_and_links_to_the_explorer(tiny_cache: Path, open_page: OpenPage) -> None:
    run = done(tiny_cache, "cosine", parameters(tiny_cache))
    app = open_page(PAGE, similarity_model="code", similarity_matrix="down")
    shown = app.dataframe[0].value
    moved = pd.read_csv(run.results / "moved.csv")
    expected = moved[(moved["model"] == "code") & (moved["matrix"] == "down")].sort_values("cosine")
    assert list(shown["neuron"]) == list(expected["neuron"])
    first = shown.iloc[0]
    assert first["explorer"] == f"/Explorer?family=tiny&model=code&layer={first['layer']}&neuron={first['neuron']}"
    assert set(shown["category"]) <= {"general", "math", "code"}  # the base is classified


@pytest.mark.usefixtures("no_worker")
def test_the_button_starts_the_run_that_the_page_then_watches(
    tiny_cache: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = models(tiny_cache)
    vary_family(tiny_cache, "swapped", models=(Member(known["base"], "math", "math"), Member(known["code"], "code")))
    app = open_page(PAGE, family="swapped")
    app.button(key="similarity_run").click().run()
    assert not app.exception
    run = client.lookup("cosine", {"base": known["base"], "models": [known["base"], known["code"]]})
    assert run is not None
    client.cancel(run)
    assert "similarity_run" not in [button.key for button in app.button]


def test_interference_is_a_map_of_layers_and_matrices(tiny_cache: Path, open_page: OpenPage) -> None:
    done(tiny_cache, "cosine", parameters(tiny_cache))
    run = done(tiny_cache, "interference", parameters(tiny_cache))
    app = open_page(PAGE, similarity_measure="opposite signs")
    frame = pd.read_csv(run.results / "interference.csv")
    cells = drawn(app, 2).data[0]
    assert (list(cells.x), list(cells.y)) == ([0, 1], list(dict.fromkeys(frame["matrix"])))
    here = frame[(frame["layer"] == 1) & (frame["matrix"] == cells.y[3])]
    assert cells.z[3][1] == pytest.approx(here["opposed"].item())
    assert any("disagree about its sign" in text.value for text in app.markdown)


def test_a_click_on_a_point_leads_to_the_neurons_of_its_layer(open_page: OpenPage, tiny_cache: Path) -> None:
    known = models(tiny_cache)
    run = done(tiny_cache, "cosine", {"base": known["base"], "models": [known["math"], known["code"]]})
    app = open_page("pages/4_Similarity.py")
    app.session_state["similarity_figure_clicked"] = ["math", 1, None]  # as a click leaves it
    app.run()
    assert not app.exception and app.selectbox(key="explorer_order").value == "turned most in math"
    frame = pd.read_parquet(run.results / "turned.parquet").query("model == 'math' and layer == 1")
    expected = frame.sort_values("cosine", kind="stable")["neuron"].tolist()[:12]
    assert app.dataframe[0].value["neuron"].tolist() == expected


def test_the_map_shows_a_quantity_of_models_or_of_the_categories_of_one(tiny_cache: Path, open_page: OpenPage) -> None:
    run = done(tiny_cache, "cosine", parameters(tiny_cache))
    app = open_page(PAGE, similarity_quantity="parallel share")
    neurons = pd.read_parquet(run.results / "turned.parquet")
    cells = drawn(app, 1).data[0]
    assert (list(cells.x), list(cells.y)) == ([0, 1], ["math", "code"])
    expected = neurons.query("model == 'code' and layer == 1")["parallel"].mean()
    assert cells.z[1][1] == pytest.approx(expected, rel=1e-5)
    app = open_page(PAGE, similarity_quantity="sign conflict", similarity_of="math and code")
    between = pd.read_parquet(run.results / "between.parquet").query("layer == 0")
    base = next(each for each in list_runs(tiny_cache) if each.title == "Classify base")
    table = overview(open_classification(base.results)).query("layer == 0")
    kind = str(table["category"].mode()[0])
    own = between.merge(table.loc[table["category"] == kind, ["layer", "neuron"]], on=["layer", "neuron"])
    cells = drawn(app, 1).data[0]
    assert cells.z[list(cells.y).index(kind)][0] == pytest.approx(own["opposed"].mean(), rel=1e-5)
    app.session_state["similarity_changes_clicked"] = [0, kind]  # as a click leaves it
    app.run()
    assert not app.exception and app.selectbox(key="explorer_order").value == "most in sign conflict"
    assert app.selectbox(key="explorer_only").value == kind
    ranked = own.sort_values("opposed", ascending=False, kind="stable")
    assert app.dataframe[0].value["neuron"].tolist() == ranked["neuron"].tolist()[:12]
    assert app.number_input(key="neuron").value == ranked["neuron"].iloc[0]


@pytest.mark.parametrize(
    ("order", "column", "lowest"),
    [("most parallel in code", "parallel", False), ("changed most in math", "change", False)]
    + [("most in sign conflict", "opposed", False), ("pulled apart most", "cosine", True)],
)
def test_the_explorer_sorts_by_what_was_changed(
    order: str, column: str, lowest: bool, tiny_cache: Path, open_page: OpenPage
) -> None:
    run = done(tiny_cache, "cosine", parameters(tiny_cache))
    mutual = column in ("opposed", "cosine")
    frame = pd.read_parquet(run.results / ("between.parquet" if mutual else "turned.parquet"))
    frame = frame if mutual else frame[frame["model"] == order.rpartition(" ")[2]]
    expected = frame.sort_values(column, ascending=lowest, kind="stable")[["layer", "neuron", column]][:12]
    layer, neuron = map(str, expected[["layer", "neuron"]].iloc[0])
    app = open_page("pages/3_Explorer.py", explorer_find="true", explorer_order=order, layer=layer, neuron=neuron)
    shown = app.dataframe[0].value
    assert shown[["layer", "neuron"]].to_numpy().tolist() == expected[["layer", "neuron"]].to_numpy().tolist()
    assert shown[order].tolist() == pytest.approx(expected[column].tolist(), rel=1e-5)
    assert {"most in sign conflict", "pulled apart most", "turned most in math"} <= set(shown)
