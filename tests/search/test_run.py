"""Sweeps over real merges of tiny checkpoints: what is written, and what a killed one goes on with."""

import csv
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from nmerge_core.errors import Cancelled, InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.progress import Progress, silent
from nmerge_core.search.plan import Sweep, load_sweep
from nmerge_core.search.trials_loop import Measured, run_trials
from tests.merging import checkpoints
from tests.tiny import write_corpus

WEIGHTS = ("models[0].parameters.weight", "models[1].parameters.weight")
TARGET = (0.8, 0.3)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("family")
    base = checkpoints.random_weights(0)
    models = [checkpoints.write(root / name, checkpoints.fine_tuned(base, seed)) for name, seed in (("a", 1), ("b", 2))]
    return SimpleNamespace(base=checkpoints.write(root / "base", base), models=models)


def plan_of(family: SimpleNamespace, folder: Path, search: dict, **more: object) -> Sweep:
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": family.base,
        "models": [{"model": model} for model in family.models],
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({"recipe": recipe, "search": search, "tasks": ["t"], **more}, sort_keys=False))
    return load_sweep(file)


def cma_plan(family: SimpleNamespace, folder: Path, trials: int, **more: object) -> Sweep:
    search = {key: {"low": 0.0, "high": 1.0} for key in WEIGHTS}
    return plan_of(family, folder, search, strategy="cma", trials=trials, seed=3, **more)


def near_target(checkpoint: Path, told: Progress = silent) -> Measured:
    """An analytic objective of the weights that the merge was made with: 0 at TARGET, smaller elsewhere."""
    weights = load_recipe(checkpoint / "nmerge_recipe.yaml").values().each["weight"]
    assert (checkpoint / "model.safetensors").is_file()
    distance = sum((weight - target) ** 2 for weight, target in zip(weights, TARGET, strict=True))
    return Measured({"t/distance": distance}, -distance)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open(newline="") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


def left_in(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def test_a_grid_by_hand(family: SimpleNamespace, tmp_path: Path) -> None:
    plan = plan_of(family, tmp_path, {WEIGHTS[0]: [0.0, 0.8], WEIGHTS[1]: [0.3, 1.3]})
    table = run_trials(plan, tmp_path / "out", near_target)
    # Squared distances to (0.8, 0.3): 0.64 + 0, 0.64 + 1, 0 + 0, 0 + 1.
    assert table[WEIGHTS[0]].tolist() == [0.0, 0.0, 0.8, 0.8] and table[WEIGHTS[1]].tolist() == [0.3, 1.3, 0.3, 1.3]
    assert table["objective"].tolist() == pytest.approx([-0.64, -1.64, 0.0, -1.0])
    assert table["t/distance"].tolist() == pytest.approx([0.64, 1.64, 0.0, 1.0])
    assert list(table) == ["trial", *WEIGHTS, "t/distance", "objective", "seconds"]
    assert left_in(tmp_path / "out") == ["best", "best.yaml", "sweep.yaml", "trials.csv"]
    merge(load_recipe(tmp_path / "out/best.yaml"), tmp_path / "again")
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "out/best", tmp_path / "again")]
    assert weights[0] == weights[1] and near_target(tmp_path / "out/best").objective == 0


@pytest.mark.parametrize(("keep", "expected"), [("none", []), ("all", ["trials"])])
def test_what_is_kept(family: SimpleNamespace, tmp_path: Path, keep: str, expected: list[str]) -> None:
    plan = plan_of(family, tmp_path, {WEIGHTS[0]: [0.8, 0.1]}, keep=keep)
    run_trials(plan, tmp_path / "out", near_target)
    assert left_in(tmp_path / "out") == sorted(["best.yaml", "sweep.yaml", "trials.csv", *expected])
    if keep == "all":
        kept = [near_target(tmp_path / f"out/trials/{number}").objective for number in (1, 2)]
        assert kept == [float(row["objective"]) for row in rows(tmp_path / "out")]


def test_cma_finds_the_optimum_through_real_merges(family: SimpleNamespace, tmp_path: Path) -> None:
    run_trials(cma_plan(family, tmp_path, 60), tmp_path / "out", near_target)
    best = load_recipe(tmp_path / "out/best.yaml").values().each["weight"]
    assert best == pytest.approx(TARGET, abs=0.05)


class Killed(BaseException):
    """What no handler of ours expects."""


def stop_at(trial: int, of: int = 20) -> Progress:
    def progress(stage: str, done: float, total: float, unit: str = "") -> None:
        if stage == f"Trial {trial} of {of}: Merging" and done > 0:
            raise Cancelled

    return progress


def test_a_stopped_sweep_goes_on_as_if_it_had_not_stopped(family: SimpleNamespace, tmp_path: Path) -> None:
    plan = cma_plan(family, tmp_path, 20)
    run_trials(plan, tmp_path / "whole", near_target)
    out = tmp_path / "out"
    with pytest.raises(Cancelled):
        run_trials(plan, out, near_target, progress=stop_at(1))
    assert left_in(out) == ["sweep.yaml"]
    with pytest.raises(Cancelled):
        run_trials(plan, out, near_target, progress=stop_at(9))
    assert len(rows(out)) == 8 and ".trial" not in left_in(out)

    def killed(checkpoint: Path, told: Progress) -> Measured:
        raise Killed

    with pytest.raises(Killed):
        run_trials(plan, out, killed)
    # A kill that leaves everything it can: half a row, a checkpoint, a best that no row tells of.
    with (out / "trials.csv").open("a") as stream:
        stream.write("9,0.12")
    (out / ".trial/merged").mkdir(parents=True)
    (out / "best.yaml").write_text("of a trial that was not written down")
    (out / "best").rename(out / "gone")
    counted: list[int] = []

    def count(checkpoint: Path, told: Progress) -> Measured:
        counted.append(1)
        return near_target(checkpoint)

    run_trials(plan, out, count)
    assert len(counted) == 12
    assert rows(out) == rows(tmp_path / "whole")


def test_a_best_that_no_row_tells_of_is_made_again(family: SimpleNamespace, tmp_path: Path) -> None:
    plan = plan_of(family, tmp_path, {WEIGHTS[0]: [0.1, 0.8]})
    out = tmp_path / "out"
    run_trials(plan, out, near_target)
    lines = (out / "trials.csv").read_text().splitlines(keepends=True)
    (out / "trials.csv").write_text("".join(lines[:-1]))  # killed before the row of the second trial
    (out / "best.yaml").unlink()
    run_trials(plan, out, near_target)
    assert near_target(out / "best").objective == max(float(row["objective"]) for row in rows(out))
    assert (out / "best.yaml").read_bytes() == (out / "best/nmerge_recipe.yaml").read_bytes()


def test_more_trials_go_on_where_fewer_ended(family: SimpleNamespace, tmp_path: Path) -> None:
    run_trials(cma_plan(family, tmp_path, 12), tmp_path / "whole", near_target)
    for trials in (5, 12, 7):  # the last has nothing left to do
        run_trials(cma_plan(family, tmp_path, trials), tmp_path / "out", near_target)
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


def test_a_folder_of_another_sweep_is_refused(family: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_trials(cma_plan(family, tmp_path, 2), out, near_target)
    before = (out / "trials.csv").read_bytes()
    with pytest.raises(InputError, match="key 'keep': this folder is of another sweep; expected 'none', found 'best'"):
        run_trials(cma_plan(family, tmp_path, 2, keep="none"), out, near_target)
    text = (out / "trials.csv").read_text()
    (out / "trials.csv").write_text(text.replace("\n1,", "\n1,9"))
    with pytest.raises(InputError, match=r"trials.csv, trial 1: expected models\[0\].parameters.weight"):
        run_trials(cma_plan(family, tmp_path, 2), out, near_target)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="full: exists already; expected a new folder"):
        run_trials(cma_plan(family, tmp_path, 2), tmp_path / "full", near_target)
    assert left_in(tmp_path / "full") == ["notes.txt"] and before


def test_a_trial_that_cannot_be_merged_is_named_and_the_others_stay(family: SimpleNamespace, tmp_path: Path) -> None:
    plan = plan_of(family, tmp_path, {WEIGHTS[0]: [0.5, -1.0], "parameters.normalize": [False, True]})
    with pytest.raises(InputError, match=r"trial 4 \(models\[0\].parameters.weight = -1.0, .* that do not sum to 0"):
        run_trials(plan, tmp_path / "out", near_target)
    assert len(rows(tmp_path / "out")) == 3 and ".trial" not in left_in(tmp_path / "out")


def test_an_objective_that_is_no_number_is_never_the_best(family: SimpleNamespace, tmp_path: Path) -> None:
    def measure(checkpoint: Path, told: Progress) -> Measured:
        found = near_target(checkpoint)
        return found if found.objective > -0.5 else Measured({"t/distance": float("nan")}, float("nan"))

    run_trials(cma_plan(family, tmp_path, 14), tmp_path / "out", measure)
    objectives = [float(row["objective"]) for row in rows(tmp_path / "out")]
    assert any(value != value for value in objectives)
    assert near_target(tmp_path / "out/best").objective == max(value for value in objectives if value == value)


def test_the_record_is_a_sweep_that_can_be_read(family: SimpleNamespace, tmp_path: Path) -> None:
    plan = cma_plan(family, tmp_path, 1)
    run_trials(plan, tmp_path / "out", near_target)
    record = yaml.safe_load((tmp_path / "out/sweep.yaml").read_text())
    read = {"engine": "version 1", "method task_arithmetic": "version 1"}
    assert set(record.pop("sources")) == {family.base, *family.models, "t", *read}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump({**record, "trials": 1}, sort_keys=False))
    assert load_sweep(tmp_path / "again.yaml").identity == {**plan.identity}


def make_sweep(family: SimpleNamespace, folder: Path) -> Sweep:
    """Write a sweep of models, a corpus and a task with data, code and an included file, named relative to it."""
    for name in ("base", "a", "b"):
        shutil.copytree(Path(family.base).parent / name, folder / name)
        (folder / name / "tokenizer_config.json").write_text("{}")
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
def test_a_changed_input_is_refused(family: SimpleNamespace, tmp_path: Path, file: str, named: str) -> None:
    plan = make_sweep(family, tmp_path)

    def measure(checkpoint: Path, told: Progress) -> Measured:
        return Measured({}, 0.0)

    with pytest.raises(Cancelled):
        run_trials(plan, tmp_path / "out", measure, progress=stop_at(2, of=2))
    trials = (tmp_path / "out/trials.csv").read_bytes()
    edited = tmp_path / file
    content = edited.read_bytes()
    edited.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if file.endswith(".safetensors") else content + b"\n")
    with pytest.raises(InputError, match=rf"out: {tmp_path / named} was changed since this sweep was begun"):
        run_trials(plan, tmp_path / "out", measure)
    assert (tmp_path / "out/trials.csv").read_bytes() == trials
    edited.write_bytes(content)
    assert len(run_trials(plan, tmp_path / "out", measure)) == 2


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
