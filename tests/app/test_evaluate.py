import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

import nmerge_core as nm
from nmerge_core.comparison.score_tables import read_samples
from nmerge_core.corpus.held_out import held_out
from nmerge_core.evaluation import harness
from nmerge_core.family import demo_family
from nmerge_core.runs import client
from nmerge_core.runs.folder import Run, list_runs
from nmerge_core.runs.request import resolve
from pages.shared.frame import estimates
from pages.shared.frame.estimates import told_scoring, told_time
from pages.shared.frame.family import family_of
from pages.shared.frame.tasks import runs_code
from tests.app.conftest import OpenPage, vary_family
from tests.app.scored import FAMILY, done, drawn, make_family, models
from tests.evaluation.test_conditions import CHOICES
from tests.evaluation.test_tasks import write_task

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
    assert list(table.index) == ["base", "math", "code"]
    assert table.iloc[:, -1].tolist() == pytest.approx(figure.data[0].x)


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
    knocked: dict[str, object] = {"model": models(tiny_cache)["base"], "task": make_family(tiny_cache)}
    knocked |= {"limit": 2, "repeats": 1, "proportions": [1.0]}
    assert told_scoring(asked) == "How long it takes is told once it has begun."
    assert told_time("knockout", [knocked]) == "; how long it takes is told once it has begun"
    runs.append(done(tiny_cache, "evaluate", parameters(tiny_cache, "base")))
    runs[0].write_status(replace(runs[0].status(), seconds=400.0))
    # 4 problems took 400 seconds, the models are of one size: 2 problems of 2 models take as long.
    assert told_scoring(asked) == "It takes about 7 min in all."
    # Intact, without the category's neurons, and without as many random ones: 3 times 2 problems, 100 seconds each.
    assert told_time("knockout", [knocked]) == ", about 10 min"
    # The task has no more than 4 problems, as the run without a limit has shown.
    assert told_scoring([parameters(tiny_cache, "math", limit=1000)]) == "It takes about 7 min."
    other = {"models": [models(tiny_cache)["math"]], "tasks": ["never scored"], "limit": None}
    assert told_scoring([other]) == "How long it takes is told once it has begun."
    assert told_scoring([other | {"limit": 8}]) == "It takes about 15 min."  # 800 seconds
    file = tiny_cache / "two.jsonl"
    file.write_text('{"text": "a"}\n{"text": "b"}')
    for task in (f"perplexity={file}", str(tiny_cache / "two.yaml")):  # of two problems, as the file tells
        (tiny_cache / "two.yaml").write_text("task: two\ndataset_kwargs: {data_files: {test: two.jsonl}}\n")
        assert told_scoring([other | {"tasks": [task]}]) == "It takes about 3 min."  # 200 seconds
    math = models(tiny_cache)["math"]
    monkeypatch.setattr(estimates, "_entries", lambda model: 11 if model == math else 1)  # the scored one is small
    assert told_scoring(asked) == "How long it takes is told once it has begun."


def test_code_tasks_are_left_out_until_switched_on(tiny_cache: Path, open_page: OpenPage) -> None:
    make_family(tiny_cache)
    risky = tiny_cache / "risky.yaml"
    risky.write_text("task: risky\nunsafe_code: true\n")
    app = open_page(PAGE, family=FAMILY)
    assert "evaluate_code" not in [toggle.key for toggle in app.toggle]
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
    assert [text.value for text in app.text][-2:] == answers and answers[0] != answers[1]
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
    asked = {"limit": 2, "decoding": "own", "batch_size": 3, "seed": 7, "shots": 1, "run_dtype": "bfloat16"}
    run = done(tiny_cache, "evaluate", parameters(tiny_cache, "math", **asked), "Scores of math")
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
    numbers = {name: app.number_input(key=f"evaluate_{name}").value for name in ("limit", "batch", "seed", "shots")}
    assert numbers == {"limit": 2, "batch": 3, "seed": 7, "shots": 1}
    choices = {name: app.selectbox(key=f"evaluate_{name}").value for name in ("decoding", "dtype")}
    assert choices == {"decoding": "own", "dtype": "bfloat16"} and not app.toggle(key="evaluate_chat").value
    [command] = [code.value for code in app.code if " evaluate " in code.value]
    for option in ("--limit 2", "--decoding own", "--batch-size 3", "--seed 7", "--shots 1", "--run-dtype bfloat16"):
        assert option in command
    assert list(drawn(app).data[0].y) == ["math"]
    app.multiselect(key="evaluate_models").set_value(["base"]).run()
    assert app.multiselect(key="evaluate_models").value == ["base"]  # and may be moved from there
    app = open_page(PAGE, family=FAMILY, run=of_merge.id)
    [name] = app.multiselect(key="evaluate_models").value
    assert name.startswith("Another")


def test_what_an_address_asks_for_in_vain_is_said(open_page: OpenPage) -> None:
    app = open_page(PAGE, family="tiny", evaluate_on="Tasks", evaluate_limit="-3", evaluate_lmit="20")
    assert [warning.value for warning in app.warning] == [
        "The address asks for **evaluate_limit** = \\-3, which cannot be; shown is nothing.",
        "The address asks for **evaluate_lmit** = 20, which is no setting of this page as it stands.",
    ]


def test_a_family_without_tasks_is_judged_by_held_out_texts(
    tiny_cache: Path, open_page: OpenPage, no_worker: None
) -> None:
    """By each category's loss, with the same intervals, tests and samples, the largest differences first."""
    app = open_page(PAGE, family="tiny")
    assert app.text_area(key="evaluate_prompt") and app.text_input(key="evaluate_corpus").value.endswith("corpus")
    app.multiselect(key="evaluate_models").set_value(["base", "math"]).run()
    button = app.button(key="evaluate_run")
    assert button.label == "Score 2 models"
    button.click().run()
    started = [run for run in list_runs(tiny_cache) if run.kind == "loss"]
    assert {run.title for run in started} == {"Loss of base", "Loss of math"}
    for run in started:
        client.cancel(run)
        shutil.rmtree(run.folder)
    corpus = str(tiny_cache / "corpus")
    asked = {name: {"models": [models(tiny_cache)[name]], "corpus": corpus} for name in ("base", "math")}
    runs = {name: done(tiny_cache, "loss", parameters) for name, parameters in asked.items()}
    app = open_page(PAGE, family="tiny")
    app.multiselect(key="evaluate_models").set_value(["base", "math"]).run()
    assert not app.exception and list(drawn(app).data[0].y) == ["base", "math"]
    losses = pd.read_csv(runs["math"].results / "losses.csv")
    table = app.dataframe[0].value
    assert table.at["math", "code · loss, nats per token ↓"] == pytest.approx(
        losses.query("category == 'code'")["loss"].mean()
    )
    app.selectbox(key="evaluate_task").set_value("code").run()
    app.segmented_control(key="evaluate_which").set_value("all").run()
    texts = [each.text for each in held_out(corpus).corpus.exemplars if each.category == "code"]
    assert sorted(text.value for text in app.text) == sorted(texts[:10])
    python = next(code.value for code in app.code if code.language == "python")
    assert f"nm.loss(models, {corpus!r})" in python.replace('"', "'")
    app = open_page(PAGE, family="tiny", run=runs["math"].id)
    assert app.multiselect(key="evaluate_models").value == ["math"] and list(drawn(app).data[0].y) == ["math"]


def test_a_family_with_neither_tasks_nor_corpus_says_what_can_be_done(tiny_cache: Path, open_page: OpenPage) -> None:
    vary_family(tiny_cache, "bare", corpus=None)
    app = open_page(PAGE, family="bare")
    assert any("names no tasks" in text.value and "*Held-out texts*" in text.value for text in app.markdown)
    app.segmented_control(key="evaluate_on").set_value("Held-out texts").run()
    assert any("names no corpus" in text.value for text in app.markdown)
    app.text_input(key="evaluate_corpus").set_value(str(tiny_cache / "nowhere")).run()
    assert not app.exception
    app.text_input(key="evaluate_corpus").set_value(str(tiny_cache / "corpus")).run()
    assert app.button(key="evaluate_run")


def choosing(root: Path) -> str:
    """A task of which each model is right on some problems, in a family of its own."""
    lines = [{"prompt": f"{n} or", "choices": ["yes", "no", "or"], "answer": n % 3} for n in range(12)]
    write_task(root / "choosing", CHOICES, lines)
    text = (root / "choosing" / "choices.yaml").read_text()
    (root / "choosing" / "choices.yaml").write_text(text.replace("data/", f"{root}/choosing/data/"))
    vary_family(root, "choosing", tasks=(str(root / "choosing" / "choices.yaml"),))
    return str(root / "choosing" / "choices.yaml")


def test_what_one_model_lost_and_gained_is_there_at_once_and_in_the_address(
    tiny_cache: Path, open_page: OpenPage
) -> None:
    task, right = choosing(tiny_cache), dict[str, dict[int, float]]()
    for name in ("base", "math", "code"):
        run = done(tiny_cache, "evaluate", {"models": [models(tiny_cache)[name]], "tasks": [task]})
        samples = read_samples(run.results / "samples.jsonl")
        right[name] = dict(zip(samples["id"], samples["value"], strict=True))
    app = open_page(PAGE, family="choosing", evaluate_model="code", evaluate_against="math")
    lost = [id for id, value in right["math"].items() if value > right["code"][id]]
    gained = [id for id, value in right["math"].items() if value < right["code"][id]]
    assert lost and gained
    told = next(text.value for text in app.markdown if "lost" in text.value)
    assert told.startswith(f"**code** lost {len(lost)}, gained {len(gained)}, ") and "against **math**" in told

    def problems(app: AppTest) -> list[str]:
        return [text.value for text in app.caption if text.value.startswith("Problem ")]

    assert problems(app) == [f"Problem {n} · lost" for n in lost]
    app = open_page(PAGE, family="choosing", evaluate_model="cod")
    [warned] = [each.value for each in app.warning]
    assert warned.endswith(f"= cod, which cannot be; shown is {app.query_params['evaluate_model']}.")
    linked = {"evaluate_task": "choices", "evaluate_model": "code", "evaluate_against": "math"}
    app = open_page(PAGE, family="choosing", evaluate_which="gained", **linked)
    assert problems(app) == [f"Problem {n} · gained" for n in gained]
    app.text_input(key="evaluate_search").set_value(f"#{lost[0]}").run()
    assert "None of these; what is searched is among: lost." in [text.value for text in app.caption]
    app.segmented_control(key="evaluate_which").set_value("all").run()
    app.text_input(key="evaluate_search").set_value("7 OR").run()
    assert len(found := problems(app)) == 1 and found[0].startswith("Problem 7 ·")
    [link] = [text.value for text in app.caption if "/link:" in text.value]
    asked = parse_qs(link.partition("?")[2].rstrip(")"))
    assert (asked["evaluate_search"], asked["evaluate_model"], asked["family"]) == (["#7"], ["code"], ["choosing"])
    there = open_page(PAGE, **{name: value for name, [value] in asked.items()})
    assert problems(there) == problems(app)
    differences = next(frame.value for frame in app.dataframe if "Verdict" in frame.value)
    assert set(differences["Test"]) == {"exact McNemar"} and list(differences["Model"]) == ["math", "code"]
    app.selectbox(key="evaluate_baseline").set_value("math").run()
    differences = next(frame.value for frame in app.dataframe if "Verdict" in frame.value)
    gain = (sum(right["code"].values()) - sum(right["math"].values())) / 12
    assert differences.set_index("Model").at["code", "Difference"] == f"{100 * gain:+.1f} points"


def test_scores_of_unlike_settings_are_told_and_not_compared(
    tiny_cache: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Path(choosing(tiny_cache))
    kept = task.read_text()
    for name, batch, state in (("base", 64, 1), ("code", 64, 2), ("math", 32, 2)):
        monkeypatch.setattr(harness, "_CPU_BATCH", batch)  # as where memory is short, which changes nothing
        task.write_text(f"{kept}metadata: {{version: {state}}}\n")
        done(tiny_cache, "evaluate", {"models": [models(tiny_cache)[name]], "tasks": [str(task)], "shots": 1})
    app = open_page(PAGE, family="choosing", evaluate_shots="1")
    app.multiselect(key="evaluate_models").set_value(["base", "code", "math"]).run()
    app.selectbox(key="evaluate_baseline").set_value("math").run()
    assert app.button(key="evaluate_run").label == "Score base"  # whose score is of an earlier task
    assert any("Batches of 32 to 64 texts." in text.value for text in app.caption)
    assert any("examples 1" in text.value for text in app.caption)
    assert any("--shots 1" in code.value for code in app.code)
    told = [info.value for info in app.info]
    assert told == ["**base** on choices is not compared: version of the task 1 against 2."]
    found = next(frame.value for frame in app.dataframe if "Verdict" in frame.value)
    assert found.set_index("Model")["Verdict"].eq("not compared").to_dict() == {"code": False, "base": True}
    task.write_text(kept)
