"""What a walk through the analysis pages found: links, what is missing or older, models that read nothing, saving."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest

from nmerge_core.errors import InputError
from nmerge_core.evaluation.tasks import load_task
from nmerge_core.family import Member
from nmerge_core.figures.paper import on_paper
from nmerge_core.runs.folder import Run, Status, create, delete
from nmerge_core.runs.request import resolve
from pages.shared.charts.pdf import chrome, pdf
from pages.shared.frame.tasks import CODE_SWITCH
from tests.app.conftest import OpenPage, vary_family
from tests.app.scored import done, drawn, make_family, models
from tests.tiny import TEXTS, tiny_model, write_corpus

NEURONS, SIMILARITY = "pages/2_Neurons.py", "pages/4_Similarity.py"
KNOCKOUT, LINEARITY = "pages/5_Knockout.py", "pages/6_Linearity.py"
Vary = Callable[..., str]


@pytest.fixture
def vary(tiny_cache: Path) -> Iterator[Vary]:
    """Save variants of the tiny family and take them away again."""
    files: list[Path] = []

    def varied(name: str, **changed: Any) -> str:
        files.append(vary_family(tiny_cache, name, **changed))
        return name

    yield varied
    for file in files:
        file.unlink()


def said(app: AppTest) -> str:
    return "\n".join(text.value for text in [*app.markdown, *app.caption, *app.info, *app.warning, *app.error])


@pytest.mark.parametrize(
    ("page", "asked", "told"),
    [
        (NEURONS, {"neurons_k": "900", "neurons_m": "2"}, ["**neurons_k** = 900, which cannot be; shown is 10"]),
        (LINEARITY, {"linearity_samples": "1000"}, ["**linearity_samples** = 1000, which cannot be; shown is 30"]),
        (NEURONS, {"neurons_k": "10", "neurons_m": "2", "neurons_layers": "1"}, []),
    ],
)
def test_what_a_link_asks_for_in_vain_is_said(
    page: str, asked: dict[str, str], told: list[str], open_page: OpenPage
) -> None:
    warnings = [warning.value for warning in open_page(page, **asked).warning]
    assert len(warnings) == bool(told)
    assert all(part in warnings[0] for part in told)


def test_what_was_said_of_a_link_goes_when_something_else_is_chosen(open_page: OpenPage) -> None:
    app = open_page(NEURONS, neurons_k="900")
    assert app.warning
    app.slider(key="neurons_k").set_value(3).run()
    assert not app.warning


def leave(root: Path, label: str, status: Status) -> Run:
    """Leave the classification of a model in a state."""
    asked = {"model": models(root)[label], "corpus": str(root / "corpus")}
    request = resolve(root, "classify", asked)
    run = create(root, "classify", request.key, f"Classify {label}", request.parameters, request.inputs, "")
    run.write_status(status)
    return run


@pytest.mark.parametrize(
    "status", [Status("cancelled", message="Cancelled."), Status("failed", message="There is no more memory.")]
)
def test_a_classification_that_ended_early_is_offered_with_all_others(
    status: Status, tiny_cache: Path, open_page: OpenPage, vary: Vary
) -> None:
    known, twin = models(tiny_cache), tiny_cache / "models" / "twin"  # which was never begun
    shutil.copytree(known["code"], twin, dirs_exist_ok=True)
    named = {"math": known["math"], "code": known["code"], "twin": str(twin)}
    more = vary("more", models=tuple(Member(reference, label) for label, reference in named.items()))
    run = leave(tiny_cache, "code", status)
    try:
        app = open_page(NEURONS, family=more)
    finally:
        delete(run)
    assert app.button(key="neurons_classify").label == "Classify 2 models"
    assert [button.label for button in app.button if button.label == "Start again"] == []
    assert "cancelled. Cancelled" not in said(app)
    assert ("There is no more memory." in said(app)) == (status.state == "failed")
    assert len(drawn(app).data)  # what is there is shown


def test_a_result_of_an_earlier_corpus_is_shown_as_older(tiny_cache: Path, open_page: OpenPage, vary: Vary) -> None:
    corpus = write_corpus(tiny_cache / "changing", TEXTS)
    name = vary("changing", corpus=corpus, models=(Member(models(tiny_cache)["math"], "math", "math"),))
    for label in ("base", "math"):
        done(tiny_cache, "classify", {"model": models(tiny_cache)[label], "corpus": corpus})
    write_corpus(tiny_cache / "changing", TEXTS | {"math": [*TEXTS["math"], "6 * 7 = 42"]})
    app = open_page(NEURONS, family=name)
    assert app.button(key="neurons_classify").label == "Classify all 2 models"
    assert "**Older**, made from an earlier **changing**: **base**, **math**." in said(app)
    assert re.search(r"reads the corpus once, (some seconds|about .*) in all", said(app))  # how long it will take
    assert len(drawn(app).data)


def test_a_result_of_an_earlier_model_is_shown_as_older(tiny_cache: Path, open_page: OpenPage, vary: Vary) -> None:
    tuned = tiny_model(tiny_cache / "models" / "retrained", seed=7)
    name = vary("retrained", models=(Member(tuned, "retrained", "math"),))
    run = done(tiny_cache, "cosine", {"base": models(tiny_cache)["base"], "models": [tuned]})
    assert "**Older**" not in said(open_page(SIMILARITY, family=name))
    tiny_model(tiny_cache / "models" / "retrained", seed=8)
    app = open_page(SIMILARITY, family=name)
    assert "**Older**, made from an earlier **retrained**" in said(app)
    assert app.button(key="similarity_run").label == "Make it anew"
    assert len(drawn(app).data) and run.results.exists()
    status = run.status()
    (run.results / "between.parquet").unlink()  # as of an older version, which kept no changes of every two
    run.write_status(status)
    app = open_page(SIMILARITY, family=name)
    assert len(drawn(app).data) and not app.exception and not app.error


def test_knockout_opens_on_what_needs_no_switch(tiny_cache: Path, open_page: OpenPage, vary: Vary) -> None:
    plain, code = make_family(tiny_cache), tiny_cache / "code.yaml"
    code.write_text(
        Path(plain).read_text().replace("task: plain", "task: code") + "unsafe_code: true\n"
        "filter_list: [{name: run, filter: [{function: run_code, program: '{{text}}'}]}]\n"
    )
    app = open_page(KNOCKOUT, family=vary("coding", tasks=(str(code), plain)))
    chosen = [app.selectbox(key=f"knockout_{name}").value for name in ("category", "task")]
    assert chosen == ["math", "held-out loss"]  # no task is called so
    app.number_input(key="knockout_repeats").set_value(9).run()  # as in no run that there is
    assert app.button(key="knockout_run") and any("of each category" in text.value for text in app.caption)
    app.selectbox(key="knockout_task").select(plain).run()
    assert app.button(key="knockout_run") and any("problems each" in text.value for text in app.caption)
    app.selectbox(key="knockout_category").select("code").run()  # whose own task it is
    assert app.selectbox(key="knockout_task").value == str(code)
    assert app.toggle(key="knockout_code").label == CODE_SWITCH and CODE_SWITCH in said(app)
    with pytest.raises(InputError, match=CODE_SWITCH):  # the message names the switch that is there
        load_task(str(code), run_code=False)


def test_models_without_a_tokenizer_are_told(tiny_cache: Path, open_page: OpenPage, vary: Vary) -> None:
    mute = tiny_cache / "models" / "mute"
    shutil.copytree(models(tiny_cache)["code"], mute, dirs_exist_ok=True)
    for file in mute.glob("*token*"):
        file.unlink()
    name = vary("mute", base=str(mute), tasks=(make_family(tiny_cache),))
    for page in (NEURONS, LINEARITY):
        app = open_page(page, family=name)
        assert "No tokenizer: **base**" in said(app), page
        assert "linearity_run" not in [button.key for button in app.button]


def test_many_models_of_long_names_are_chosen_from_a_list(tiny_cache: Path, open_page: OpenPage, vary: Vary) -> None:
    long = "x" * 150
    name = vary("long", models=(Member(models(tiny_cache)["math"], long, "math"),))
    app = open_page(NEURONS, family=name)
    assert app.selectbox(key="neurons_model").options == ["base", long]
    assert max(len(trace.name) for trace in drawn(app).data) < 40


def test_a_figure_is_printed_as_a_page_of_its_size() -> None:
    program = chrome()
    if program is None:
        pytest.skip("there is no Chrome on this machine")
    figure = on_paper(go.Figure(go.Bar(x=["a"], y=[1])), width=480, height=360)
    printed = pdf(figure, program)
    assert printed.startswith(b"%PDF")
    [box] = re.findall(rb"/MediaBox ?\[0 0 ([\d.]+) ([\d.]+)\]", printed)
    assert [float(side) for side in box] == pytest.approx([360, 270], abs=0.6)  # points, of 4/3 pixels


def test_each_figure_is_described_and_saved_under_its_own_name(open_page: OpenPage) -> None:
    app = open_page(NEURONS)
    sent = [component.proto.json for component in app.get("bidi_component")]
    assert len(sent) >= 4  # more where neurons were labelled
    assert all('"alt": "' in each or '"alt":"' in each for each in sent)
