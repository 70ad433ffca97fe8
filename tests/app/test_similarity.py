from pathlib import Path

import pandas as pd
import pytest

from nmerge_core.family import Member
from nmerge_core.runs import client
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
    cells = drawn(app, 1).data[0]
    assert (list(cells.x), list(cells.y)) == ([0, 1], list(dict.fromkeys(frame["matrix"])))
    here = frame[(frame["layer"] == 1) & (frame["matrix"] == cells.y[3])]
    assert cells.z[3][1] == pytest.approx(here["opposed"].item())
    assert any("disagree about its sign" in text.value for text in app.markdown)


def test_a_click_on_a_point_leads_to_the_neurons_of_its_layer(open_page: OpenPage, tiny_cache: Path) -> None:
    known = models(tiny_cache)
    run = done(tiny_cache, "cosine", {"base": known["base"], "models": [known["math"], known["code"]]})
    app = open_page("pages/4_Similarity.py")
    app.session_state["similarity_figure_clicked"] = ["math", 1]  # as a click leaves it
    app.run()
    assert not app.exception and app.selectbox(key="explorer_order").value == "turned most in math"
    frame = pd.read_parquet(run.results / "turned.parquet").query("model == 'math' and layer == 1")
    expected = frame.sort_values("cosine", kind="stable")["neuron"].tolist()[:12]
    assert app.dataframe[0].value["neuron"].tolist() == expected
