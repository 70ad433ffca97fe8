from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import nmerge_core as nm
from nmerge_core.family import demo_family
from nmerge_core.runs import client
from nmerge_core.runs.folder import Run, list_runs
from nmerge_core.runs.request import resolve
from pages.shared import estimates
from pages.shared.estimates import told_scoring
from pages.shared.family import family_of
from pages.shared.tasks import runs_code
from tests.app.conftest import OpenPage, vary_family
from tests.app.scored import FAMILY, done, drawn, make_family, models

PAGE = "pages/8_Evaluate.py"


def parameters(root: Path, model: str, **changed: object) -> dict[str, object]:
    return {"models": [models(root)[model]], "tasks": [make_family(root)], "limit": None, "run_code": False} | changed


def test_scores_of_models_side_by_side(tiny_cache: Path, open_page: OpenPage) -> None:
    for model in ("base", "math", "code"):
        done(tiny_cache, "evaluate", parameters(tiny_cache, model))
    app = open_page(PAGE, family=FAMILY)
    app.multiselect(key="evaluate_models").set_value(["base", "math", "code"]).run()
    assert "evaluate_run" not in [button.key for button in app.button]
    figure = drawn(app)
    assert list(figure.data[0].y) == ["base", "math", "code"]
    assert "against the base" in figure.data[0].hovertext[1]
    table = app.dataframe[0].value
    assert list(table["model"]) == ["base", "math", "code"]
    assert table.iloc[0, 1].startswith(f"{figure.data[0].x[0]:.3g}"[:3])


@pytest.mark.usefixtures("no_worker")
def test_only_models_without_a_score_are_scored(
    tiny_cache: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(tiny_cache, "evaluate", parameters(tiny_cache, "base", limit=10))
    app = open_page(PAGE, family=FAMILY, evaluate_limit="10")
    app.multiselect(key="evaluate_models").set_value(["base", "math"]).run()
    button = app.button(key="evaluate_run")
    assert button.label == "Score math"
    before = {run.id for run in list_runs(tiny_cache)}
    button.click().run()
    new = [run for run in list_runs(tiny_cache) if run.id not in before]
    assert [run.parameters["models"] for run in new] == [[models(tiny_cache)["math"]]]
    client.cancel(new[0])


@pytest.mark.usefixtures("no_worker")
def test_scores_of_an_earlier_task_are_told_as_older_and_made_anew(
    tiny_cache: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Path(make_family(tiny_cache))
    for model in ("base", "math"):
        done(tiny_cache, "evaluate", parameters(tiny_cache, model))
    kept = task.read_text()
    task.write_text(kept + "\n# another one since\n")
    try:
        app = open_page(PAGE, family=FAMILY)
        app.multiselect(key="evaluate_models").set_value(["base", "math"]).run()
        assert any(
            "**Older**, made from an earlier **plain.yaml**: **base**, **math**." in m.value for m in app.markdown
        )
        assert list(drawn(app).data[0].y) == ["base", "math"]
        assert app.button(key="evaluate_run").label == "Score 2 models"
        before = {run.id for run in list_runs(tiny_cache)}
        app.button(key="evaluate_run").click().run()
        new = [run for run in list_runs(tiny_cache) if run.id not in before]
        assert {run.title for run in new} == {"Scores of base", "Scores of math"}
        assert list(drawn(app).data[0].y) == ["base", "math"]  # the older ones, meanwhile
        for run in new:
            client.cancel(run)
    finally:
        task.write_text(kept)


def test_how_long_scoring_takes_is_told_from_scores_before_it(
    tiny_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Run] = []
    monkeypatch.setattr(estimates, "list_runs", lambda root: runs)
    asked = [parameters(tiny_cache, model, limit=2) for model in ("math", "code")]
    assert told_scoring(asked) == "How long that takes is known after the first time."
    runs.append(done(tiny_cache, "evaluate", parameters(tiny_cache, "base")))
    runs[0].write_status(replace(runs[0].status(), seconds=400.0))
    # 4 problems took 400 seconds, the models are of one size: 2 problems of 2 models take as long.
    assert told_scoring(asked) == "It takes about 7 min in all."
    # The task has no more than 4 problems, as the run without a limit has shown.
    assert told_scoring([parameters(tiny_cache, "math", limit=1000)]) == "It takes about 7 min."
    other = {"models": [models(tiny_cache)["math"]], "tasks": ["never scored"], "limit": None}
    assert told_scoring([other]) == "How long that takes is known after the first time."
    assert told_scoring([other | {"limit": 8}]) == "It takes about 15 min."  # 800 seconds


def test_code_tasks_are_left_out_until_switched_on(tiny_cache: Path, open_page: OpenPage) -> None:
    make_family(tiny_cache)
    risky = tiny_cache / "risky.yaml"
    risky.write_text("task: risky\nunsafe_code: true\n")
    app = open_page(PAGE, family=FAMILY)
    assert not app.toggle
    vary_family(tiny_cache, "risky", tasks=(str(risky),))
    app = open_page(PAGE, family="risky")
    assert any(text.value.startswith("Left out: risky,") for text in app.caption)
    assert "evaluate_run" not in [button.key for button in app.button]
    app.toggle(key="evaluate_code").set_value(True).run()
    assert app.button(key="evaluate_run").label.startswith("Score ")


def test_tasks_with_code_of_their_own_are_left_out_until_switched_on(tiny_cache: Path, open_page: OpenPage) -> None:
    make_family(tiny_cache)
    own = tiny_cache / "own.yaml"
    own.write_text("task: own\nprocess_docs: !function beside.clean\n")
    vary_family(tiny_cache, "own", tasks=(str(own),))
    app = open_page(PAGE, family="own")
    left_out = "Left out: own, which would run code of its own. Switch that on above."
    assert left_out in [text.value for text in app.caption]
    assert [text.value for text in app.text] == [f"{own}, line 2: process_docs: !function beside.clean"]
    assert "evaluate_run" not in [button.key for button in app.button]
    app.toggle(key="evaluate_own_code").set_value(True).run()
    assert app.button(key="evaluate_run").label.startswith("Score ")
    assert any("--allow-task-code" in code.value for code in app.code)


@pytest.mark.usefixtures("asked_here")
def test_models_continue_a_prompt(tiny_cache: Path, open_page: OpenPage) -> None:
    make_family(tiny_cache)
    app = open_page(PAGE, family=FAMILY)
    app.multiselect(key="evaluate_models").set_value(["base", "math"]).run()
    app.text_area(key="evaluate_prompt").set_value("2 + 2 =").run()
    assert not app.exception
    known = models(tiny_cache)
    answers = [
        client.ask("generate", model=known[name], prompt="2 + 2 =", max_new_tokens=64) for name in ("base", "math")
    ]
    assert [text.value for text in app.text] == answers and answers[0] != answers[1]
    python = next(code.value for code in app.code if code.language == "python")
    shown: dict[str, Any] = {"nm": nm, "models": {name: known[name] for name in ("base", "math")}}
    exec(python[python.index("answers = ") :], shown)
    assert list(shown["answers"].values()) == answers


@pytest.mark.parametrize("task", ["humaneval", "mbpp"])
def test_the_code_benchmarks_are_known_to_run_code(tiny_cache: Path, task: str, empty_cache: Path) -> None:
    assert runs_code(task) and not runs_code("hellaswag")
    asked = parameters(tiny_cache, "base", tasks=[task, "hellaswag"])
    request = resolve(empty_cache, "evaluate", asked)
    assert request.parameters["tasks"] == [task, "hellaswag"]
    by = f"lm-eval {version('lm_eval')}"
    assert request.inputs[task].endswith(f" {by}") and request.inputs["hellaswag"] == by  # its YAML is ours


def test_a_score_run_opens_on_exactly_its_model_and_tasks_in_its_family(tiny_cache: Path, open_page: OpenPage) -> None:
    run = done(tiny_cache, "evaluate", parameters(tiny_cache, "math", limit=20), "Scores of math")
    merged = done(
        tiny_cache,
        "merge",
        {"recipe": {"merge_method": "linear", "models": [{"model": models(tiny_cache)["math"]}], "seed": 3}},
        "Another",
    )
    of_merge = done(
        tiny_cache, "evaluate", parameters(tiny_cache, "math") | {"models": [str(merged.results / "merged")]}, "Of it"
    )
    chosen = demo_family(tiny_cache)
    assert models(tiny_cache)["math"] in family_of(run, chosen).references
    assert models(tiny_cache)["math"] in family_of(of_merge, chosen).references
    app = open_page(PAGE, family=FAMILY, run=run.id)
    assert app.multiselect(key="evaluate_models").value == ["math"]
    assert app.multiselect(key="evaluate_tasks").value == run.parameters["tasks"]
    assert app.number_input(key="evaluate_limit").value == 20
    assert list(drawn(app).data[0].y) == ["math"]
    app.multiselect(key="evaluate_models").set_value(["base"]).run()
    assert app.multiselect(key="evaluate_models").value == ["base"]  # and may be moved from there
    app = open_page(PAGE, family=FAMILY, run=of_merge.id)
    [name] = app.multiselect(key="evaluate_models").value
    assert name.startswith("Another")


def test_what_an_address_asks_for_in_vain_is_said(open_page: OpenPage) -> None:
    app = open_page(PAGE, family="tiny", evaluate_limit="-3", evaluate_models="math", evaluate_lmit="20")
    assert [warning.value for warning in app.warning] == [
        "The address asks for **evaluate_limit** = \\-3, which cannot be; shown is nothing.",
        "The address asks for **evaluate_lmit** = 20, which is no setting of this page as it stands.",
    ]
    assert app.multiselect(key="evaluate_models").value == ["math"]


def test_models_without_tasks_can_be_asked(tiny_cache: Path, open_page: OpenPage) -> None:
    app = open_page(PAGE, family="tiny")
    assert app.text_area(key="evaluate_prompt") and any("names no tasks" in text.value for text in app.markdown)
