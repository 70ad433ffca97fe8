"""A report end to end on tiny models: stopped and gone on with, edited inputs, what it leaves, and what it refuses."""

import ast
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from nmerge_core.cli import main
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.face.reports import Report
from nmerge_core.family import load_family
from nmerge_core.inputs import Places
from nmerge_core.merging.recipe import recipe
from nmerge_core.reports import make
from nmerge_core.reports.budget import BUDGETS
from nmerge_core.reports.effort import foreseen
from nmerge_core.reports.make import make_report, subjects_of
from nmerge_core.reports.measuring import Measuring
from nmerge_core.reports.parts import alone
from nmerge_core.reports.plan import Best, Plan
from nmerge_core.reports.subjects import Subject, owned_by_gain
from nmerge_core.reports.variants import Variant
from tests.reports.findings import LEAST
from tests.tiny_family import make_family

SHORT = replace(LEAST, votes=(*LEAST.votes, 40))  # more than the 30 texts of the corpus


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A base with two fine-tunes and a corpus, and its file."""
    made = make_family(tmp_path_factory.mktemp("report"))
    made.file = made.root / "family.yaml"
    for category in ("general", "math", "code"):  # a fifth of ten is held out: one to choose by, and one to test
        with (Path(made.corpus) / f"{category}.jsonl").open("a") as file:
            file.writelines(json.dumps({"text": f"more {category} text {number}"}) + "\n" for number in range(2))
    made.file.write_text("base: base\nmodels: {math: math, code: code}\ncorpus: corpus\n")
    return made


@pytest.fixture(autouse=True)
def least(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest budget in the place of the quick one."""
    monkeypatch.setitem(BUDGETS, "quick", SHORT)


@pytest.fixture(scope="module")
def done(family: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A report that was stopped among its merges, and then made to its end by the command."""
    out = tmp_path_factory.mktemp("reports") / "report"
    told: list[str] = []

    def stop(stage: str, done: float, total: float, unit: str = "") -> None:
        told.append(unit)
        if "DARE" in unit:
            raise Cancelled

    again: list[tuple[float, float]] = []

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUDGETS, "quick", SHORT)
        with pytest.raises(Cancelled):
            make_report(load_family(family.file), out, progress=stop)
        stopped = json.loads((out / "verdicts.json").read_text())["items"]
        before = {path: path.stat().st_mtime_ns for path in (out / "parts").iterdir()}
        assert main(["report", str(family.file), "--out", str(out)]) == 0
        make_report(load_family(family.file), out, progress=lambda _, n, total, *__: again.append((n, total)))
    return SimpleNamespace(out=out, told=told, stopped=stopped, before=before, again=again)


def test_a_stopped_report_shows_what_there_is_and_goes_on(done: SimpleNamespace) -> None:
    assert done.stopped["neuronmerge-figure-8"]["verdict"] == "does not agree"  # was measured before
    assert done.stopped["neuronmerge-table-1"]["verdict"] == "not made yet"
    assert "stopped" in done.stopped["neuronmerge-table-1"]["told"]
    assert all(path.stat().st_mtime_ns == time for path, time in done.before.items())  # nothing was made anew
    found = json.loads((done.out / "verdicts.json").read_text())["items"]
    assert not [name for name, each in found.items() if "stopped" in each["told"]]
    assert "knock" not in "".join(done.told) and any("code neurons off" in unit for unit in done.told)


def test_what_was_measured_before_is_none_of_the_work_that_is_told(done: SimpleNamespace) -> None:
    """Else the time left goes by measurements that took none; those that are there add up to the whole."""
    made, wanted = zip(*done.again, strict=True)
    assert set(made) == {0} and wanted[0] > 20
    assert list(wanted) == sorted(wanted, reverse=True) and wanted[-1] == 0


def test_the_work_that_is_told_is_what_was_foreseen_with_as_many_coefficients_as_are_solved(
    done: SimpleNamespace, family: SimpleNamespace
) -> None:
    assert done.again[0][1] == pytest.approx(foreseen(load_family(family.file), SHORT, run_code=False).total, abs=1e-5)
    effort = foreseen(load_family(family.file), LEAST, run_code=False)  # without the vote of more texts than there are
    merges = list(effort.plan.merges(lambda several: several[0]))
    alone = [next(iter(effort.merges([variant])))[1] for variant in merges]
    new = [share for _, share in effort.merges(merges)]
    solving = next(iter(effort.merges([effort.plan.sublin(effort.plan.labels)])))[1] - 2 / 3
    spared = round((sum(alone) - sum(new)) / solving)
    by_coefficients = sum(variant.method in ("sublin", "neuronmerge") for variant in merges) - 2  # experiments 1 and 3
    assert by_coefficients - spared == len(list((done.out / "parts").glob("coefficients-*")))


def test_fine_tunes_without_a_task_of_their_own_are_told(family: SimpleNamespace, tmp_path: Path) -> None:
    """One task is that of one of two fine-tunes at most: no merge of both is judged by what both were made for."""
    file = tmp_path / "family.yaml"
    models = f"{{math: {family.math}, code: {family.code}}}"
    file.write_text(f"base: {family.base}\nmodels: {models}\ncorpus: {family.corpus}\ntasks: [{family.task}]\n")
    make_report(load_family(file), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "verdicts.json").read_text())["items"]
    assert "No task is that of" in found["neuronmerge-table-1"]["told"]
    assert not [name for name, each in found.items() if "stopped" in each["told"]]


def test_models_without_a_tokenizer_have_a_report_of_their_weights(family: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("base", "math", "code"):
        (tmp_path / name).mkdir()
        for part in ("config.json", "model.safetensors"):
            (tmp_path / name / part).symlink_to(family.root / name / part)
    file = tmp_path / "family.yaml"
    file.write_text(f"base: base\nmodels: {{math: math, code: code}}\ncorpus: {family.corpus}\n")
    make_report(load_family(file), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "verdicts.json").read_text())["items"]
    assert found["neuronmerge-figure-8"]["verdict"] == "does not agree"  # cosines need no texts
    told = "No model of this family can be scored: .*base: no tokenizer"
    assert re.match(told, found["neuronmerge-table-1"]["told"]) and re.match(
        told, found["neuronmerge-figure-7"]["told"]
    )
    assert not [name for name, each in found.items() if "stopped" in each["told"]]


def test_the_page_has_all_and_asks_for_nothing_from_elsewhere(done: SimpleNamespace) -> None:
    html = (done.out / "index.html").read_text(encoding="utf-8")
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)  # without plotly.js
    assert not re.search(r"""(src|href)=["'](?!#)|url\(|@import""", own)
    assert html.count("<section id=") == 48 and len(re.findall('class="figure"', own)) > 15
    assert "Made by NMerge" in own and "The six claims" in own
    assert set(re.findall('href="#([^"]+)"', own)) <= set(re.findall('id="([^"]+)"', own))
    table = pd.read_csv(done.out / "tables" / "neuronmerge-table-4.csv")
    assert list(table["method"]) == ["task arithmetic", "random groups, draw 1", "NeuronMerge₂"]
    assert f"{table['mean'][2]:.4g}" in own
    every = pd.read_csv(done.out / "tables" / "neuromerging-table-1.csv").set_index("method")
    assert list(every.index[every["goes by"] == "texts"]) == ["Fisher merging", "RegMean", "LoraHub", "AdaMerging"]
    assert every["mean"].nunique() >= 9 and len(every) == 11  # without PCB-Merging + ES, which searches by tasks


def test_the_notebook_makes_the_same_tables(done: SimpleNamespace) -> None:
    cells = json.loads((done.out / "report.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert "nm.report(" in code[1]
    names: dict[str, object] = {}
    shown = []
    for cell in code:
        *before, last = ast.parse(cell).body
        exec(compile(ast.Module(before, []), "cell", "exec"), names)
        shown.append(eval(ast.unparse(last), names) if isinstance(last, ast.Expr) else exec(ast.unparse(last), names))
    report = names["report"]
    assert isinstance(report, Report) and report.path == done.out
    for file in (done.out / "tables").glob("neuro*.csv"):
        assert any(isinstance(each, pd.DataFrame) and each.equals(pd.read_csv(file)) for each in shown), file


def test_an_edited_input_is_noticed_and_only_what_reads_it_is_measured_anew(
    family: SimpleNamespace, done: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    file = family.root / "corpus" / "code.jsonl"
    text = file.read_text()
    file.write_text(text.replace("code text 3", "code lines 3"))
    measured: list[str] = []

    def stop(stage: str, done: float, total: float, unit: str = "") -> None:
        measured.append(unit)
        if "of code" in unit:
            raise Cancelled

    parts = {path.name for path in (done.out / "parts").iterdir()}
    try:
        with pytest.raises(Cancelled):
            make_report(load_family(family.file), done.out, progress=stop)
    finally:
        file.write_text(text)
    assert f"{family.corpus} was changed since this report was begun" in caplog.text
    new = {path.name.rpartition("-")[0] for path in (done.out / "parts").iterdir() if path.name not in parts}
    assert new == {"neurons"}  # of the base and math; cosines read no corpus
    assert parts <= {path.name for path in (done.out / "parts").iterdir()}  # for when it is put back


def test_scores_follow_the_problems_and_a_page_the_inputs_that_were_put_back(
    family: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = tmp_path / "plain.jsonl", tmp_path / "out"
    data.write_text((family.root / "plain.jsonl").read_text())
    for name in ("math", "code"):
        text = (family.root / "plain.yaml").read_text().replace("task: plain", f"task: {name}")
        (tmp_path / f"{name}.yaml").write_text(text)
    file = tmp_path / "family.yaml"
    models = f"{{math: {family.math}, code: {family.code}}}"
    file.write_text(f"base: {family.base}\nmodels: {models}\ntasks: [math.yaml, code.yaml]\n")
    monkeypatch.setattr(Plan, "merges", lambda plan, best: plan.subspaces().values())

    def table() -> str:
        make_report(load_family(file), out)
        return (out / "tables" / "neuromerging-table-12.csv").read_text()

    first, problems = table(), data.read_text()
    data.write_text(problems.replace("some words", "altogether other words"))
    assert table() != first
    data.write_text(problems)
    assert table() == first
    merged = len(list((out / "parts").glob("merge-*")))
    monkeypatch.setattr(recipe, "ENGINE_VERSION", recipe.ENGINE_VERSION + 1)
    assert table() == first
    assert len(list((out / "parts").glob("merge-*"))) == merged + 4  # of two fine-tunes both parts, merged anew


def test_tasks_that_have_one_fingerprint_are_told_apart(
    family: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    monkeypatch.setattr(
        make, "subjects_of", lambda own, *how: ([(Subject(t, "acc", True, 2, task=t), None) for t in own.tasks], "")
    )
    monkeypatch.setattr(make, "measure", lambda report: names.append(report.parts.name("scores", asked(report))))

    def asked(report: Measuring) -> dict:
        return report.asked([subject for subject, _ in report.scores])

    for task in ("arc_easy", "arc_challenge"):  # lm-eval's own
        make_report(replace(load_family(family.file), tasks=(task,)), tmp_path / task)
    assert len(set(names)) == 2


def test_a_folder_of_something_else_is_refused(family: SimpleNamespace, done: SimpleNamespace, capsys) -> None:
    (family.root / "other.yaml").write_text("base: math\nmodels: {code: code}\n")
    assert main(["report", str(family.root / "other.yaml"), "--out", str(done.out)]) == 2
    assert "holds the report of another family; name another folder" in capsys.readouterr().err
    assert main(["report", str(family.file), "--out", str(family.root)]) == 2
    assert "exists already; expected a new folder, or one that a report has begun" in capsys.readouterr().err


def test_a_family_with_nothing_but_models_says_what_it_lacks(
    family: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bare = family.root / "bare.yaml"
    bare.write_text("base: base\nmodels: {math: math, code: code}\n")
    assert main(["report", str(bare), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert "names neither tasks nor a corpus: there is nothing to judge models by" in told.out
    assert "nmerge: some seconds in all; what was measured before is taken over" in told.err
    found = json.loads((tmp_path / "out" / "verdicts.json").read_text())["items"]
    assert found["neuronmerge-figure-3"]["told"].startswith("This family names no corpus")
    assert found["neuronmerge-figure-8"]["verdict"] == "does not agree"  # cosines need no texts
    assert found["neuromerging-figure-5"]["verdict"] == "does not agree"


def test_tasks_are_those_of_the_fine_tunes_of_their_names_and_methods_with_data_are_made_where_they_can_be(
    family: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("math", "code"):
        text = (family.root / "plain.yaml").read_text().replace("task: plain", f"task: {name}")
        (family.root / f"{name}-task.yaml").write_text(text)
    file = family.root / "tasks.yaml"
    file.write_text("base: base\nmodels: {math: math, code: code}\ntasks: [math-task.yaml, code-task.yaml]\n")

    def by_data_alone(plan: Plan, best: Best) -> list[Variant]:
        return [*plan.by_data(plan.labels), Variant("RegMean", "regmean", plan.labels)]

    monkeypatch.setattr(Plan, "merges", by_data_alone)
    make_report(load_family(file), tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "math: math, 2 problems; code: code, 2 problems; numbers are in bits per byte." in page
    [searched] = [pd.read_parquet(part) for part in (tmp_path / "out" / "parts").glob("merge-*.parquet")]
    assert searched["subject"].tolist() == ["math", "math", "code", "code"]  # by PCB-Merging + ES
    [note] = json.loads((tmp_path / "out" / "verdicts.json").read_text())["notes"]
    assert note.startswith("RegMean of math + code cannot be merged: ") and "corpus" in note


def test_fine_tunes_of_one_category_are_not_merged_by_their_texts(family: SimpleNamespace, tmp_path: Path) -> None:
    """NeuronMerge refuses them, which ended the report after all that is measured before it."""
    file = family.root / "alike.yaml"
    models = "[{model: math, category: math}, {model: code, label: again, category: math}]"
    file.write_text(f"base: base\nmodels: {models}\ncorpus: corpus\n")
    made: list[Plan] = []

    def measured(report: Measuring) -> None:
        made.append(report.found.plan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "measure", measured)
        make_report(load_family(file), tmp_path / "out")
        methods = {variant.method for variant in made[0].merges(lambda several: several[0])}
    assert {"ties", "neuromerging"} <= methods and not {"neuronmerge", "sublin", "fisher"} & methods
    found = json.loads((tmp_path / "out" / "verdicts.json").read_text())
    assert found["notes"] == [make._TOGETHER] and "give each its own" in found["items"]["neuronmerge-table-3"]["told"]


def test_tasks_of_one_name_are_refused(family: SimpleNamespace) -> None:
    """Each problem counted twice, with the values of two tasks."""
    (family.root / "other.yaml").write_text((family.root / "plain.yaml").read_text())
    tasks = tuple(str(family.root / name) for name in ("plain.yaml", "other.yaml"))
    with pytest.raises(InputError, match=r"different names, found 'plain' in .*plain.yaml and .*other.yaml; rename"):
        subjects_of(replace(load_family(family.file), tasks=tasks), 3, Places(family.root), False, False)


def test_one_process_makes_a_report(tmp_path: Path) -> None:
    (tmp_path / "out" / "parts").mkdir(parents=True)
    with alone(tmp_path / "out"):
        with pytest.raises(InputError, match="another process makes this report; wait for it"), alone(tmp_path / "out"):
            pass
    with alone(tmp_path / "out"):
        pass


def test_problems_that_are_scored_bring_their_documents(family: SimpleNamespace) -> None:
    task = family.root / "documents.yaml"
    task.write_text((family.root / "plain.yaml").read_text() + "metadata: {cluster: from}\n")
    lines = [json.dumps({"text": f"text {number}", "from": f"page {number // 2}"}) for number in range(4)]
    (family.root / "documents.jsonl").write_text("\n".join(lines))
    task.write_text(task.read_text().replace("plain.jsonl", "documents.jsonl"))
    chosen = replace(load_family(family.file), tasks=(str(task),))
    [(subject, _)], _ = subjects_of(chosen, 3, Places(family.root), False, False)
    assert subject.documents == ("page 0", "page 0", "page 1")


def test_without_tasks_of_their_names_fine_tunes_own_what_they_gain_most_on() -> None:
    subjects = [Subject(name, "acc", True, 9) for name in ("gsm8k", "humaneval", "general")]
    gains = {("a", "gsm8k"): 5.0, ("a", "humaneval"): 9.0, ("b", "humaneval"): 20.0, ("b", "gsm8k"): 1.0}
    owned = owned_by_gain(subjects, gains | {("a", "general"): -1.0, ("c", "general"): 0.0})
    assert {each.name: each.owner for each in owned} == {"gsm8k": "a", "humaneval": "b", "general": ""}


def test_code_that_models_write_is_not_run_unless_that_is_switched_on(family: SimpleNamespace) -> None:
    task = family.root / "running.yaml"
    task.write_text((family.root / "plain.yaml").read_text() + "unsafe_code: true\n")
    chosen = replace(load_family(family.file), tasks=(str(task),))
    subjects, said = subjects_of(chosen, 2, Places(family.root), False, False)
    assert {each.name for each, _ in subjects} == {"general", "math", "code"}
    assert "--run-code" in said and "loss on held-out texts" in said
