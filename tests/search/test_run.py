"""Sweeps over real merges of tiny models: what is written, and what a killed one goes on with."""

import csv
import shutil
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from nmerge_core.errors import Cancelled, InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.progress import Progress
from nmerge_core.search.plan import Sweep
from nmerge_core.search.reading import load_sweep
from nmerge_core.search.scoring import Measured, open_scoring
from nmerge_core.search.shared_trials import SharedTrials, turn
from nmerge_core.search.trials import importance_table
from nmerge_core.search.trials_loop import run_trials
from tests.search.toy import TARGET, WEIGHTS, Target, plan_of
from tests.tiny import write_corpus
from tests.tiny_family import make_family


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    made = make_family(tmp_path_factory.mktemp("family"))
    made.near_target = Target(made)
    return made


def cma_plan(family: SimpleNamespace, folder: Path, trials: int, **more: object) -> Sweep:
    search = {key: {"low": 0.0, "high": 1.0} for key in WEIGHTS}
    return plan_of(family, folder, search, strategy="cma", trials=trials, seed=3, **more)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open(newline="") as stream:
        return [{k: v for k, v in row.items() if k not in ("seconds", "merging")} for row in csv.DictReader(stream)]


def left_in(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if path.name != "importance.csv")  # of several trials alone


WRITTEN = ["best.yaml", "journal.log", "recipes", "sweep.yaml", "trials.csv"]


def test_a_grid_by_hand(family: SimpleNamespace, tmp_path: Path) -> None:
    plan = plan_of(family, tmp_path, {WEIGHTS[0]: [0.0, 0.8], WEIGHTS[1]: [0.3, 1.3]})
    table = run_trials(plan, tmp_path / "out", family.near_target)
    # Squared distances to (0.8, 0.3): 0.64 + 0, 0.64 + 1, 0 + 0, 0 + 1.
    assert table[WEIGHTS[0]].tolist() == [0.0, 0.0, 0.8, 0.8] and table[WEIGHTS[1]].tolist() == [0.3, 1.3, 0.3, 1.3]
    assert table["objective"].tolist() == pytest.approx([-0.64, -1.64, 0.0, -1.0], abs=1e-3)
    assert table["t/distance"].tolist() == pytest.approx([0.64, 1.64, 0.0, 1.0], abs=1e-3)
    assert list(table) == ["trial", *WEIGHTS, "t/distance", "objective", "state", "seconds", "merging"]
    assert table["state"].tolist() == ["done"] * 4
    assert left_in(tmp_path / "out") == sorted([*WRITTEN, "best"])
    importance = pd.read_csv(tmp_path / "out/importance.csv").set_index("key")["importance"]
    # Of four equal cells: the first key's means differ by 1.14 − 0.5 = 0.64, the second's by 1, and nothing else does,
    # so that their shares are as 0.64² to 1²: 0.29 and 0.71. A forest of bootstrapped trees is near that.
    assert importance[WEIGHTS[1]] == pytest.approx(0.71, abs=0.1) and importance.sum() == pytest.approx(1)
    merge(load_recipe(tmp_path / "out/best.yaml"), tmp_path / "again")
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "out/best", tmp_path / "again")]
    assert weights[0] == weights[1]
    assert family.near_target.weights_of(str(tmp_path / "out/best")) == pytest.approx(TARGET, abs=1e-3)
    assert (tmp_path / "out/best.yaml").read_bytes() == (tmp_path / "out/best/nmerge_recipe.yaml").read_bytes()
    recipe = load_recipe(tmp_path / "out/recipes/2/nmerge_recipe.yaml")
    assert recipe.values().each["weight"] == (0.0, 1.3)


def test_a_model_without_a_tokenizer_is_named_and_no_trial_of_it(family: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("base", "math", "code"):
        shutil.copytree(getattr(family, name), tmp_path / name, ignore=shutil.ignore_patterns("tokenizer*"))
    plan = plan_of(
        SimpleNamespace(**{name: str(tmp_path / name) for name in ("base", "math", "code")}),
        tmp_path,
        {WEIGHTS[0]: [0.5]},
    )
    with pytest.raises(InputError) as error:
        run_trials(plan, tmp_path / "out", family.near_target)
    assert str(error.value).startswith(f"{tmp_path / 'base'}: no tokenizer; expected tokenizer.json beside the weights")


def test_what_keys_make_of_trials_is_found_out_in_nobodys_turn(
    family: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forest takes seconds, in which other processes have theirs: the lock is a file, that is there in a turn."""
    found, held = SharedTrials.importances, []

    def importances(self: SharedTrials) -> dict[str, float]:
        held.append([path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".turn")])
        return found(self)

    monkeypatch.setattr(SharedTrials, "importances", importances)
    run_trials(plan_of(family, tmp_path, {WEIGHTS[0]: [0.1, 0.8]}), tmp_path / "out", family.near_target)
    assert held and not any(held)
    with turn(tmp_path / "out"):
        assert any(path.name.startswith(".turn") for path in (tmp_path / "out").iterdir())


def test_objectives_are_of_tasks_as_the_sweep_names_them(family: SimpleNamespace, tmp_path: Path) -> None:
    """By NSGA-II two tasks of files whose names are not the tasks': each objective is its own task's score."""
    files = {name: tmp_path / f"{name}-of-mine.yaml" for name in ("first", "second")}
    for name, file in files.items():
        text = Path(family.task).read_text().replace("task: plain", f"task: {name}")
        text = text.replace("plain.jsonl", f"{name}.jsonl")
        file.write_text(text)
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "some words of {name}"}}\n')
    tasks = [str(file) for file in files.values()]
    search = {key: {"low": 0.0, "high": 1.0} for key in WEIGHTS}
    plan = plan_of(
        family, tmp_path, search, strategy="nsga2", trials=1, seed=1, tasks=tasks, keep="none",
        objectives=[{tasks[0]: 1.0}, {tasks[1]: 1.0}],
    )  # fmt: skip
    [trial] = run_trials(plan, tmp_path / "out", open_scoring(plan)).to_dict("records")
    scores = [-trial[f"{name}/bits_per_byte"] for name in files]  # of which less is better
    assert [trial["objective_1"], trial["objective_2"]] == scores and scores[0] != scores[1]


def test_a_key_with_a_comma_is_one_in_the_table_of_importances() -> None:
    shares = {'parameters.specific.a,"b"': 0.25, "parameters.weight": 0.75}
    table = pd.read_csv(StringIO(importance_table(shares)))
    assert dict(zip(table["key"], table["importance"], strict=True)) == shares


@pytest.mark.parametrize(("keep", "kept"), [("none", []), ("all", [1, 2, 3]), (2, [1, 3])])
def test_what_is_kept(family: SimpleNamespace, tmp_path: Path, keep: object, kept: list[int]) -> None:
    plan = plan_of(family, tmp_path, {WEIGHTS[0]: [0.7, 0.1, 0.6]}, keep=keep)
    run_trials(plan, tmp_path / "out", family.near_target)
    assert left_in(tmp_path / "out") == sorted([*WRITTEN, *(["trials"] if kept else [])])
    for number in kept:
        weight = family.near_target.weights_of(str(tmp_path / f"out/trials/{number}"))[0]
        assert weight == pytest.approx(float(rows(tmp_path / "out")[number - 1][WEIGHTS[0]]), abs=1e-3)
    assert left_in(tmp_path / "out/trials") == list(map(str, kept)) if kept else True


def test_what_is_no_more_among_the_best_goes(family: SimpleNamespace, tmp_path: Path) -> None:
    def plan(trials: int) -> Sweep:
        search = {WEIGHTS[0]: {"low": 0.0, "high": 1.0}}
        return plan_of(family, tmp_path, search, strategy="random", trials=trials, seed=4, keep=1)

    kept = []
    for trials in range(1, 5):
        table = run_trials(plan(trials), tmp_path / "out", family.near_target)
        assert left_in(tmp_path / "out/trials") == [str(table["objective"].idxmax() + 1)]
        kept += left_in(tmp_path / "out/trials")
    assert len(set(kept)) > 1


class Killed(BaseException):
    """What no handler of ours expects."""


def stop_at(trial: int, of: int = 13) -> Progress:
    def progress(stage: str, done: float, total: float, unit: str = "") -> None:
        if stage == f"Trial {trial} of {of}: Merging" and done > 0:
            raise Cancelled

    return progress


@pytest.mark.parametrize("strategy", ["tpe", "cma"])
def test_a_stopped_sweep_goes_on_as_if_it_had_not_stopped(
    family: SimpleNamespace, tmp_path: Path, strategy: str
) -> None:
    search = {WEIGHTS[0]: {"low": 0.0, "high": 1.0}, WEIGHTS[1]: [0.1, 0.3, 0.9]}
    plan = plan_of(family, tmp_path, search, strategy=strategy, trials=13, seed=3)
    run_trials(plan, tmp_path / "whole", family.near_target)
    out = tmp_path / "out"
    with pytest.raises(Cancelled):
        run_trials(plan, out, family.near_target, progress=stop_at(1))
    assert left_in(out) == ["journal.log", "sweep.yaml"]
    with pytest.raises(Cancelled):
        run_trials(plan, out, family.near_target, progress=stop_at(9))
    assert len(rows(out)) == 8 and left_in(out) == WRITTEN

    def killed(*_: object) -> Measured:
        raise Killed

    with pytest.raises(Killed):
        run_trials(plan, out, killed)
    # A kill that leaves everything it can: half a line of the journal, half a trial, an old table, an old best.
    with (out / "journal.log").open("a") as stream:
        stream.write('{"op_code":8,"tri')
    (out / "recipes/9").mkdir()
    (out / "trials.csv").write_text("trial\n1\n")
    (out / "best.yaml").write_text("of a trial that was not written down")
    counted: list[int] = []

    def count(*given: object) -> Measured:
        counted.append(1)
        return family.near_target(*given)

    run_trials(plan, out, count)
    assert len(counted) == 5
    assert rows(out) == rows(tmp_path / "whole")
    assert (out / "best.yaml").read_bytes() == (tmp_path / "whole/best.yaml").read_bytes()


def test_more_trials_go_on_where_fewer_ended(family: SimpleNamespace, tmp_path: Path) -> None:
    run_trials(cma_plan(family, tmp_path, 4), tmp_path / "whole", family.near_target)
    for trials in (2, 4, 3):  # the last has nothing left to do
        run_trials(cma_plan(family, tmp_path, trials), tmp_path / "out", family.near_target)
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


def test_minutes_end_a_sweep_after_the_trial_they_end_in(family: SimpleNamespace, tmp_path: Path) -> None:
    search = {WEIGHTS[0]: {"low": 0.0, "high": 1.0}}
    plan = plan_of(family, tmp_path, search, strategy="random", minutes=1e-9)
    assert plan.trials is None
    table = run_trials(plan, tmp_path / "out", family.near_target)
    assert table.empty
    plan = plan_of(family, tmp_path, search, strategy="random", minutes=0.005)
    first = len(run_trials(plan, tmp_path / "out", family.near_target))
    assert first >= 1 and len(run_trials(plan, tmp_path / "out", family.near_target)) > first
    assert (tmp_path / "out/best/model.safetensors").exists()


def test_a_folder_of_another_sweep_is_refused(family: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_trials(cma_plan(family, tmp_path, 2), out, family.near_target)
    with pytest.raises(InputError, match="key 'keep': this folder is of another sweep; expected 'none', found 'best'"):
        run_trials(cma_plan(family, tmp_path, 2, keep="none"), out, family.near_target)
    for name, content in (("journal.log", "[3]\n"), ("journal.log", "x\n"), ("sweep.yaml", "- x"), ("sweep.yaml", "")):
        kept = (out / name).read_bytes()
        (out / name).write_text(content)
        with pytest.raises(InputError, match=f"{name}: damaged"):
            run_trials(cma_plan(family, tmp_path, 2), out, family.near_target)
        (out / name).write_bytes(kept)
    (out / "trials.csv").unlink()
    (out / "trials.csv").mkdir()  # what is made of the journal is made anew
    run_trials(cma_plan(family, tmp_path, 2), out, family.near_target)
    (out / "journal.log").unlink()
    with pytest.raises(InputError, match="out: an earlier version has begun this sweep; name another folder"):
        run_trials(cma_plan(family, tmp_path, 2), out, family.near_target)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/out: cannot be written"):
        run_trials(cma_plan(family, tmp_path, 2), tmp_path / "file/out", family.near_target)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="full: exists already; expected a new folder"):
        run_trials(cma_plan(family, tmp_path, 2), tmp_path / "full", family.near_target)
    assert left_in(tmp_path / "full") == ["notes.txt"]


def test_a_trial_that_cannot_be_merged_is_told_of_and_the_others_are_done(
    family: SimpleNamespace, tmp_path: Path
) -> None:
    def plan(*weights: float) -> Sweep:
        return plan_of(family, tmp_path, {WEIGHTS[0]: list(weights)} | {"parameters.normalize": [True]})

    table = run_trials(plan(0.5, -1.0, 0.8), tmp_path / "out", family.near_target)
    assert table["state"].tolist() == ["done", "failed", "done"] and table["objective"].isna().tolist() == [0, 1, 0]
    assert "trial 2 (models[0].parameters.weight = -1.0, " in table["failure"][1]
    assert "do not sum to 0" in table["failure"][1] and left_in(tmp_path / "out") == sorted([*WRITTEN, "best"])
    for _ in range(2):  # the first one ends it, as none may be possible; again, it is the same
        with pytest.raises(InputError, match=r"trial 1 \(models\[0\].parameters.weight = -1.0, .* do not sum to 0"):
            run_trials(plan(-1.0, 0.5), tmp_path / "first", family.near_target)
    assert left_in(tmp_path / "first") == ["journal.log", "sweep.yaml"]


def test_an_objective_that_is_no_number_is_never_the_best(family: SimpleNamespace, tmp_path: Path) -> None:
    def measure(*given: object) -> Measured:
        found = family.near_target(*given)
        return found if found.objectives[0] > -0.3 else Measured({"t/distance": float("nan")}, (float("nan"),))

    run_trials(cma_plan(family, tmp_path, 7), tmp_path / "out", measure)
    objectives = [float(row["objective"]) for row in rows(tmp_path / "out")]
    assert any(value != value for value in objectives)
    best = max(range(7), key=lambda number: (objectives[number] == objectives[number], objectives[number]))
    recipe = tmp_path / f"out/recipes/{best + 1}/nmerge_recipe.yaml"
    assert (tmp_path / "out/best.yaml").read_bytes() == recipe.read_bytes()


def test_two_objectives(family: SimpleNamespace, tmp_path: Path) -> None:
    def measure(model: object, told: Progress, hopeless: object) -> Measured:
        first, second = family.near_target.weights_of(model)
        return Measured({"t/first": first, "u/second": second}, (first, -second))

    search = {key: {"low": 0.0, "high": 1.0} for key in WEIGHTS}
    plan = plan_of(family, tmp_path, search, strategy="nsga2", trials=12, tasks=["t", "u"], objectives=["t", {"u": 2}])
    table = run_trials(plan, tmp_path / "out", measure)
    assert table["objective_1"].tolist() == table["t/first"].tolist()
    mean = (table["objective_1"] + table["objective_2"]) / 2
    recipe = tmp_path / f"out/recipes/{mean.idxmax() + 1}/nmerge_recipe.yaml"
    assert (tmp_path / "out/best.yaml").read_bytes() == recipe.read_bytes()


def test_merges_that_cannot_follow_one_another_are_made_anew(family: SimpleNamespace, tmp_path: Path) -> None:
    """Of other formats and other models; and one of other tokens, which is written and read."""
    search = {"dtype": ["float32", "bfloat16"], "models[0].model": [family.math, family.code]}
    table = run_trials(plan_of(family, tmp_path, search, keep="none"), tmp_path / "out", family.near_target)
    # Weights of math and code are both 1: where code stands for math, it counts twice, and math not at all.
    assert table["t/distance"].tolist() == pytest.approx([0.53, 3.53, 0.53, 3.53], abs=0.1)
    plan = plan_of(family, tmp_path, {WEIGHTS[0]: [0.8]}, tokenizer="union", keep="none")
    table = run_trials(plan, tmp_path / "union", family.near_target)
    assert table["t/distance"].tolist() == pytest.approx([0.49], abs=1e-2)
    assert left_in(tmp_path / "union") == WRITTEN and left_in(tmp_path / "union/recipes/1") == ["nmerge_recipe.yaml"]


def test_the_record_is_a_sweep_that_can_be_read(family: SimpleNamespace, tmp_path: Path) -> None:
    plan = cma_plan(family, tmp_path, 1)
    run_trials(plan, tmp_path / "out", family.near_target)
    record = yaml.safe_load((tmp_path / "out/sweep.yaml").read_text())
    read = {"engine": "version 2", "method task_arithmetic": "version 1"}
    assert set(record.pop("sources")) == {family.base, family.math, family.code, "t", *read}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump({**record, "trials": 1}, sort_keys=False))
    assert load_sweep(tmp_path / "again.yaml").identity == {**plan.identity}


def make_sweep(family: SimpleNamespace, folder: Path) -> Sweep:
    """Write a sweep of models, a corpus and a task with data, code and an included file, named relative to it."""
    for name, source in (("base", family.base), ("a", family.math), ("b", family.code)):
        shutil.copytree(source, folder / name)
    write_corpus(folder / "corpus", {"general": ["one"], "math": ["two"]})
    (folder / "own.yaml").write_text("include: common.yml\ntask: own\nprocess_docs: !function code.prepare\n")
    (folder / "common.yml").write_text("dataset_kwargs: {data_files: {test: 'rows/*.jsonl'}}\n")
    (folder / "code.py").write_text("prepare = list")
    (folder / "rows").mkdir()
    (folder / "rows/test.jsonl").write_text("{}\n")
    recipe = {
        "merge_method": "linear",
        "base_model": str(folder / "base"),
        "models": [{"model": "placeholder"}],
        "parameters": {"weight": 1.0},
    }
    search = {"models[0].model": [str(folder / "a"), str(folder / "b")]}
    content = {"recipe": recipe, "search": search, "tasks": ["own.yaml"]}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return load_sweep(folder / "sweep.yaml")


def equal(*_: object) -> Measured:
    return Measured({}, (0.0,))


@pytest.fixture(scope="module")
def begun(family: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Path]:
    """A sweep that was stopped in its second trial, and the folder of all that it reads, in which `out` is its own."""
    folder = tmp_path_factory.mktemp("begun")
    plan = make_sweep(family, folder)
    with pytest.raises(Cancelled):
        run_trials(plan, folder / "out", equal, progress=stop_at(2, of=2))
    return plan, folder


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("own.yaml", "own.yaml"),
        ("common.yml", "own.yaml"),
        ("rows/test.jsonl", "own.yaml"),
        ("code.py", "own.yaml"),
        ("base/model.safetensors", "base"),
        ("a/model.safetensors", "a"),
        ("b/model.safetensors", "b"),  # of no trial yet
        ("b/tokenizer_config.json", "b"),
    ],
)
def test_a_changed_input_is_refused(begun: tuple[Sweep, Path], file: str, named: str) -> None:
    plan, folder = begun
    trials = (folder / "out/trials.csv").read_bytes()
    edited = folder / file
    content = edited.read_bytes()
    edited.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if file.endswith(".safetensors") else content + b"\n")
    with pytest.raises(InputError, match=rf"out: {folder / named} was changed since this sweep was begun"):
        run_trials(plan, folder / "out", equal)
    assert (folder / "out/trials.csv").read_bytes() == trials
    edited.write_bytes(content)


def test_inputs_that_were_put_back_are_those_it_was_begun_with(begun: tuple[Sweep, Path], tmp_path: Path) -> None:
    plan, folder = begun
    file = folder / "own.yaml"
    file.write_bytes(file.read_bytes())
    shutil.copytree(folder / "out", tmp_path / "out")
    assert len(run_trials(plan, tmp_path / "out", equal)) == 2


def test_a_changed_corpus_is_another_input(family: SimpleNamespace, tmp_path: Path) -> None:
    """Fisher merging reads a corpus, which counts from the sweep's folder; a group's tasks are those of its folder."""
    make_sweep(family, tmp_path)
    recipe = {"merge_method": "fisher", "models": [{"model": str(tmp_path / "a")}], "parameters": {"corpus": "corpus"}}
    (tmp_path / "group.yaml").write_text("group: both\ntask: [own]\n")
    content = {"recipe": recipe, "search": {"parameters.floor": [1e-6, 1e-3]}, "tasks": ["group.yaml"]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    before = load_sweep(tmp_path / "sweep.yaml").inputs
    corpus, task = str(tmp_path / "corpus"), str(tmp_path / "group.yaml")
    assert before.keys() == {corpus, task, str(tmp_path / "a"), "engine", "method fisher"}
    (tmp_path / "corpus/math.jsonl").write_text('{"text": "other"}\n')
    after = load_sweep(tmp_path / "sweep.yaml").inputs
    assert {name for name in before if before[name] != after[name]} == {corpus}
    (tmp_path / "rows/test.jsonl").write_text("{} \n")
    again = load_sweep(tmp_path / "sweep.yaml").inputs
    assert {name for name in after if again[name] != after[name]} == {task}
