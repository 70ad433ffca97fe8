"""The Merge page as the place to tune: a candidate answers as its controls move, and the log leads back to each."""

import errno
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from streamlit.testing.v1 import AppTest

import nmerge_core as nm
from nmerge_core.candidates import CandidateLog, log_folder
from nmerge_core.files.kept_files import remove
from nmerge_core.merging.recipe.changes import told
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.progress import Progress
from nmerge_core.runs import client, here
from nmerge_core.runs.folder import Run, list_runs
from nmerge_core.runs.request import resolve
from nmerge_core.runs.short_questions import generate
from pages.shared.frame.drafts import packed
from pages.shared.frame.text import marked
from pages.shared.recipe.curve import shapes
from pages.shared.tuning import answers, measuring
from pages.shared.tuning.asking import LIVE, Asked, inputs_of
from pages.shared.tuning.candidates import read
from tests.app.conftest import OpenPage
from tests.app.recipes import PAGE, recipe_shown
from tests.app.scored import done, models
from tests.tiny_family import make_family as make_tiny

LAMBDA = "merge_task_arithmetic_lambda"
ASKED = Asked("2 + 2 =", 16, ()).key


@pytest.fixture
def log(tiny_cache: Path, asked_here: None) -> Iterator[CandidateLog]:
    """The family's log, empty."""
    remove(log_folder(tiny_cache, "tiny"))
    yield CandidateLog(tiny_cache, "tiny")
    remove(log_folder(tiny_cache, "tiny"))


def live(open_page: OpenPage, **query: str) -> AppTest:
    return open_page(PAGE, **{"merge_live": "true", "merge_prompt": "2 + 2 =", "merge_length": "16", **query})


def scale(app: AppTest, value: float) -> None:
    app.slider(key=LAMBDA).set_value(value).run()
    assert not app.exception and not app.warning


def test_it_answers_as_its_controls_are_moved(tiny_cache: Path, open_page: OpenPage, log, tmp_path: Path) -> None:
    app, known = live(open_page, merge_method="Task arithmetic"), models(tiny_cache)
    shown = []
    for number, value in enumerate((0.5, 1.5)):
        scale(app, value)
        written = nm.merge(recipe_shown(app), tmp_path / str(number), progress=False)
        answer = generate(str(written.path), "2 + 2 =", 16)
        assert answer in [text.value for text in app.text]
        parents = [generate(known[name], "2 + 2 =", 16) for name in ("base", "math", "code")]
        drawn = [each.proto.body for each in app.get("html") if 'class="answer"' in each.proto.body]
        assert drawn == [marked(parent, answer) for parent in parents]
        shown.append([each.value for each in app.caption if each.value.startswith("Next token: ")])
        assert log.all()[-1].answers == {ASKED: answer}
    assert shown[0] != shown[1]  # without a button


def test_what_cannot_be_answered_is_asked_again_when_something_changes_and_not_before(
    tiny_cache: Path, open_page: OpenPage, log: CandidateLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe_shown(open_page(PAGE, merge_method="Task arithmetic"))
    done(tiny_cache, "merge", {"recipe": made})  # the page shows a finished merge by being drawn once more
    asked: list[str] = []
    prompt, looked = "Nobody asked this before", threading.Event()

    def lost(question: str, **told: Any) -> None:
        if told["prompt"] != prompt:  # what an earlier test's page still listens to
            return
        looked.clear()
        asked.append(question)
        looked.wait(20)
        raise RuntimeError("The worker was lost.")

    def look() -> None:
        looked.set()
        time.sleep(0.5)  # it is over then

    monkeypatch.setattr(client, "ask", lost)
    monkeypatch.setattr(answers, "AT_ONCE", 0.0)
    monkeypatch.setattr(answers, "rerun_if_reopened", look)
    app = live(open_page, merge_method="Task arithmetic", merge_prompt=prompt)
    assert asked == ["live"] and [info.value for info in app.info] == ["The worker was lost."]
    scale(app, 0.5)
    assert asked == ["live"] * 2 and [info.value for info in app.info] == ["The worker was lost."]


def test_switched_off_it_listens_no_more(
    open_page: OpenPage, log: CandidateLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = threading.Event()

    def reading(question: str, *, progress: Progress, **told: Any) -> None:
        try:
            while True:
                progress("Reading the models", 1, 8, "blocks")
                time.sleep(0.01)
        finally:
            left.set()

    monkeypatch.setattr(client, "ask", reading)
    monkeypatch.setattr(answers, "AT_ONCE", 0.0)
    app = live(open_page, merge_method="Task arithmetic", merge_prompt="Nor was this asked before")
    assert not left.is_set()
    app.toggle(key=LIVE).set_value(False).run()
    assert not app.exception and left.wait(10)


@pytest.mark.usefixtures("no_worker")
def test_what_a_method_measures_is_measured_by_a_run_that_is_started_where_it_is_short(
    tiny_cache: Path, open_page: OpenPage, log: CandidateLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "submit", here.do)
    app = live(open_page, merge_method="SubModule Linearity")
    written = nm.merge(recipe_shown(app), tmp_path / "out", progress=False)
    answer = generate(str(written.path), "2 + 2 =", 16)
    assert answer in [text.value for text in app.text] and not app.info
    assert log.all()[-1].answers == {ASKED: answer}

    def queued(kind: str, parameters: dict[str, Any]) -> Run:
        return client.find_or_create(tiny_cache, resolve(tiny_cache, kind, parameters))

    monkeypatch.setattr(client, "submit", queued)
    app.slider(key="merge_sublin_samples").set_value(17).run()  # which no other test has measured
    assert not app.exception
    told = ":orange-badge[provisional] It goes by coefficients measured with samples 30 until this is done:"
    assert told in [caption.value for caption in app.caption] and app.button(key=cancel(tiny_cache))
    assert log.all()[-1].answers == {}  # as it is another answer in a moment

    monkeypatch.setattr(measuring, "SHORT", 0.0)
    app.slider(key="merge_sublin_samples").set_value(18).run()
    app.button(key="merge_measure").click().run()
    assert app.button(key=cancel(tiny_cache))


def cancel(root: Path) -> str:
    """The button that cancels the newest run; the runs that wait are taken away after."""
    newest = list_runs(root)[0]
    assert newest.kind == "coefficients" and newest.status().state == "queued"
    remove(newest.folder)
    return f"run_cancel_{newest.id}"


def test_the_log_leads_back_and_undo_and_redo_go_along_it(open_page: OpenPage, log: CandidateLog) -> None:
    app = live(open_page, merge_method="Task arithmetic")
    for value in (0.5, 0.7):
        scale(app, value)
    assert [each.number for each in log.all()] == [1, 2, 3]
    assert "Since \\#2: λ 0.5 → 0.7" in [each.value.replace("#2", "\\#2") for each in app.caption]

    app.button(key="merge_undo").click().run()
    assert app.slider(key=LAMBDA).value == 0.5
    app.button(key="merge_undo").click().run()
    assert app.slider(key=LAMBDA).value == 1.0 and app.button(key="merge_undo").disabled
    app.button(key="merge_redo").click().run()
    assert app.slider(key=LAMBDA).value == 0.5 and not app.warning

    app.button(key="merge_back_3").click().run()
    assert app.slider(key=LAMBDA).value == 0.7 and app.button(key="merge_redo").disabled
    assert len(log.all()) == 3  # what was tried before has its number
    app.button(key="merge_forget_1").click().run()
    assert [each.number for each in log.all()] == [2, 3]


def test_a_pinned_candidate_stays_beside_and_a_name_is_kept(open_page: OpenPage, log: CandidateLog) -> None:
    app = live(open_page, merge_method="Task arithmetic")
    app.button(key="merge_pin").click().run()
    app.text_input(key="merge_name_text").set_value("the *first*").run()
    [first] = log.all()
    assert first.pinned and first.name == "the *first*"
    scale(app, 0.5)
    told = [text.value for text in app.markdown]
    assert "**#1** the \\*first\\*" in told
    drawn = [each.proto.body for each in app.get("html") if 'class="answer"' in each.proto.body]
    assert drawn[0] == marked(first.answers[ASKED], log.all()[1].answers[ASKED])


def test_two_candidates_are_compared(open_page: OpenPage, log: CandidateLog) -> None:
    app = live(open_page, merge_method="Task arithmetic", merge_view="Compare")
    assert any("There is one candidate so far" in info.value for info in app.info)
    scale(app, 0.5)
    for number, answer in ((1, "a b"), (2, "a c")):
        log.learn(number, "answers", {"?": answer})
        known = {"metric": "exact_match", "value": number / 10, "low": 0.0, "high": 0.5, "problems": 20}
        log.learn(number, "scores", {"math · exact_match": known})
    app.run()
    told = [text.value for text in app.markdown]
    assert any("math 10.0 % (0.0 % to 50.0 %)" in text.replace("\\", "") for text in told), told
    assert (app.selectbox(key="merge_from_2").value, app.selectbox(key="merge_to_2").value) == (1, 2)
    assert any(r"| λ | 1 | 0\.5 |" in text.value for text in app.markdown)
    drawn = [each.proto.body for each in app.get("html") if 'class="answer"' in each.proto.body]
    assert drawn == [marked("a b", "a c"), marked("a c", "a b")]


def test_the_page_opens_on_the_last_candidate_else_on_the_recommended_method(
    open_page: OpenPage, log: CandidateLog
) -> None:
    assert recipe_shown(open_page(PAGE))["merge_method"] == "neuromerging"
    app = live(open_page, merge_method="Task arithmetic")
    scale(app, 0.7)
    opened = open_page(PAGE)
    assert recipe_shown(opened) == recipe_shown(app) and not opened.warning
    first, second = log.all()
    log.visit(first.recipe)  # looked at again
    shown = recipe_shown(open_page(PAGE))
    assert shown == yaml.safe_load(first.recipe) != yaml.safe_load(second.recipe)


def test_prompts_are_kept_with_the_family(tiny_cache: Path, open_page: OpenPage, log: CandidateLog) -> None:
    app = live(open_page, merge_method="Task arithmetic")
    app.button(key="merge_prompt_keep").click().run()
    assert log.prompts == ["2 + 2 ="]
    app.button(key="merge_example_math").click().run()
    first = json.loads((tiny_cache / "corpus" / "math.jsonl").read_text().splitlines()[0])["text"]
    typed = app.text_area(key="merge_prompt").value
    assert first.startswith(typed) and typed != first
    app.button(key="merge_kept_0").click().run()
    assert app.text_area(key="merge_prompt").value == "2 + 2 ="
    app.button(key="merge_prompt_forget").click().run()
    assert log.prompts == []


def test_every_prompt_that_is_kept_is_answered_where_one_asks_for_that(open_page: OpenPage, log: CandidateLog) -> None:
    kept = ["2 + 2 =", "def add(a", "once upon"]
    for prompt in kept:
        log.keep_prompt(prompt)
    app = live(open_page, merge_method="Task arithmetic")
    assert list(log.all()[-1].answers) == [ASKED]
    app.toggle(key="merge_every_prompt").set_value(True).run()
    assert not app.exception and list(log.all()[-1].answers) == [Asked(prompt, 16, ()).key for prompt in kept]
    shown = [text.value for text in app.text]
    assert all(prompt in shown for prompt in kept[1:]) and {*log.all()[-1].answers.values()} <= {*shown}
    assert len(app.get("html")) >= 9  # of each of three models to each of three prompts


def test_a_long_wait_is_not_begun_unasked(open_page: OpenPage, log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pages.shared.tuning.bench.AT_ONCE", 0.0)
    app = open_page(PAGE, merge_method="Task arithmetic", merge_live="")
    assert not app.toggle(key="merge_live").value and log.all() == []
    assert any("The first answer takes about" in each.value for each in app.caption)


def test_what_another_text_does_not_say_is_marked() -> None:
    assert marked(" a <b> c", "a d c") == '<div class="answer">a <mark>&lt;b&gt;</mark> c</div>'
    assert marked("f(x)[1:]", "f(x[1:])") == '<div class="answer">f(x<mark>)</mark>[1:]</div>'  # signs by themselves
    assert marked("no no no", "so so so") == '<div class="answer"><mark>no no no</mark></div>'
    assert marked("\u6211\u7231\u4f60", "\u6211\u4f60") == '<div class="answer">\u6211<mark>\u7231</mark>\u4f60</div>'


def test_a_setting_may_differ_over_the_layers(open_page: OpenPage, log: CandidateLog) -> None:
    app = live(open_page, merge_method="Task arithmetic")
    editor = next(each for each in app.expander if each.proto.label == "Over depth")
    assert not editor.children  # drawn when it is opened
    curves = {"merge_task_arithmetic_lambda": [{"filter": ".mlp.", "value": [0.5, 0.0]}, {"value": 0.0}]}
    link = packed(json.dumps(curves))
    assert link is not None
    app = live(open_page, merge_method="Task arithmetic", merge_curves=link)
    assert recipe_shown(app)["parameters"]["lambda"] == [{"filter": ".mlp.", "value": [0.5, 0]}, {"value": 0}]
    assert any(":small[.mlp. 0.5, 0; the rest 0]" in text.value for text in app.markdown)
    candidate = read(log.all()[-1].recipe)
    assert candidate is not None and told(candidate, {}) == "Task arithmetic, λ .mlp. 0.5, 0; the rest 0"
    app.button(key="merge_task_arithmetic_lambda_flat").click().run()
    assert recipe_shown(app)["parameters"]["lambda"] == 1.0 and app.query_params.get("merge_curves") is None


def test_shapes_of_curves_are_made_of_the_settings_value() -> None:
    made = shapes(0.5, 5)
    assert made["Rising"] == [0, 0.125, 0.25, 0.375, 0.5] and made["Valley"] == [0.5, 0.25, 0, 0.25, 0.5]
    assert made["Flat"] == [0.5] * 5 and shapes(0.5, 1)["Rising"] == [0.0]


def test_undo_passes_over_what_was_forgotten(open_page: OpenPage, log: CandidateLog) -> None:
    app = live(open_page, merge_method="Task arithmetic")
    for value in (0.5, 0.7):
        scale(app, value)
    app.button(key="merge_forget_2").click().run()
    app.button(key="merge_undo").click().run()
    assert app.slider(key=LAMBDA).value == 1.0 and app.button(key="merge_undo").disabled
    app.button(key="merge_redo").click().run()
    assert app.slider(key=LAMBDA).value == 0.7


def test_a_full_disk_is_told_and_the_page_goes_on(open_page: OpenPage, log, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    app = live(open_page, merge_method="Task arithmetic")
    monkeypatch.setattr("nmerge_core.candidates.write_json", full)
    app.text_area(key="merge_prompt").set_value("3 + 3 =").run()
    app.button(key="merge_prompt_keep").click().run()
    assert not app.exception
    told = "The log of candidates cannot be written: No space left on device."
    assert told in [warning.value for warning in app.warning]


@pytest.mark.parametrize(
    "curves", ["[" * 50_000, '{"merge_task_arithmetic_lambda": [{"filter": "mlp"}]}', '{"a": 5}', "7"]
)
def test_a_link_of_curves_that_are_none_changes_nothing(open_page: OpenPage, log, curves: str) -> None:
    app = open_page(PAGE, merge_method="Task arithmetic", merge_curves=packed(curves) or "")
    assert recipe_shown(app)["parameters"]["lambda"] == 1.0


def test_a_note_is_text(open_page: OpenPage, log: CandidateLog) -> None:
    app = live(open_page, merge_method="Task arithmetic", merge_view="Compare")
    app.text_area(key="merge_name_note").set_value("![x](https://evil.example/p.png)").run()
    notes = [text.proto.help for text in app.markdown if text.proto.help]
    assert notes and not any("![x](" in note for note in notes)


def test_a_changed_file_that_the_recipe_reads_is_another_question(tmp_path: Path, log: CandidateLog) -> None:
    made = make_tiny(tmp_path)
    template = tmp_path / "talk.jinja"
    content = yaml.safe_load((tmp_path / "recipe.yaml").read_text()) | {"chat_template": str(template)}
    seen = []
    for text in ("{{ messages[0]['content'] }}", "{{ messages[-1]['content'] }}!"):
        template.write_text(text)
        seen.append(inputs_of(load_recipe(content)))
    assert seen[0] != seen[1] and any(made.math in each for each in seen[0])
