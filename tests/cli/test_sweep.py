"""`sweep` end to end: real merges, real tasks, the table it prints and leaves."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from nmerge_core.cli import main
from tests.tiny import write_corpus


@pytest.fixture
def asked(family, tmp_path):
    """A sweep of two trials over the family's recipe."""
    file = tmp_path / "sweep.yaml"

    def write(**more: object) -> str:
        content = {"recipe": str(family.recipe), "search": {"parameters.weight": [0.0, 1.0]}, "tasks": [family.task]}
        file.write_text(yaml.safe_dump({**content, "limit": 2, **more}))
        return str(file)

    return write


def test_sweep_merges_scores_and_keeps_the_best(family, asked, tmp_path, capsys):
    out, scores = tmp_path / "out", tmp_path / "scores.csv"
    assert main(["sweep", asked(), str(out)]) == 0
    printed = capsys.readouterr()
    assert "objective" in printed.out and printed.out.endswith(f"{out / 'best.yaml'}\n")
    assert "Trial 2 of 2: " in printed.err
    trials = pd.read_csv(out / "trials.csv")
    last = ["objective", "state", "seconds", "merging"]
    assert list(trials) == ["trial", "parameters.weight", "plain/bits_per_byte", *last]
    assert (trials["objective"] == -trials["plain/bits_per_byte"]).all()  # of bits per byte less is better
    best = trials["objective"].idxmax()
    assert main(["evaluate", family.base, str(out / "best"), "--tasks", family.task, "--limit", "2",
                 "--out", str(scores)]) == 0  # fmt: skip
    again = pd.read_csv(scores)["value"]
    assert again[0] == trials["plain/bits_per_byte"][0]  # weight 0 is the base
    assert again[1] == trials["plain/bits_per_byte"][best]
    assert yaml.safe_load((out / "best.yaml").read_text())["parameters"]["weight"] == float(best)
    before = (out / "trials.csv").read_bytes()
    assert main(["sweep", asked(), str(out)]) == 0  # all is done
    assert (out / "trials.csv").read_bytes() == before


def test_an_objective_weighs_tasks(family, asked, tmp_path, capsys):
    sure = tmp_path / "sure.yaml"  # the one choice there is, is chosen: an accuracy of 1
    sure.write_text(
        f"task: sure\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {family.root / 'plain.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: some\ndoc_to_choice: [words]\n"
        "doc_to_target: 0\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    tasks = [family.task, str(sure)]
    assert main(["sweep", asked(tasks=tasks, objective={"plane": 1}), str(tmp_path / "out")]) == 2
    assert "unknown key 'plane'; did you mean 'plain'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["sweep", asked(tasks=tasks, objective={"plain": 1, "sure": 3}), str(tmp_path / "out")]) == 0
    trials = pd.read_csv(tmp_path / "out/trials.csv")
    assert (trials["sure/acc"] == 1).all()
    # Weights 1 and 3; of bits per byte less is better: (−1 · bits per byte + 3 · 1) / 4.
    assert trials["objective"].tolist() == pytest.approx([(3 - bits) / 4 for bits in trials["plain/bits_per_byte"]])


def test_a_sweep_without_tasks_goes_by_the_loss_on_held_out_texts(family, asked, tmp_path, capsys):
    corpus, losses = f"{family.corpus}[-2:]", tmp_path / "losses.csv"
    assert main(["sweep", asked(tasks=None, limit=None, loss=corpus), str(tmp_path / "out")]) == 0
    trials = pd.read_csv(tmp_path / "out/trials.csv")
    assert main(["evaluate", str(tmp_path / "out/best"), "--loss", corpus, "--out", str(losses)]) == 0
    found = pd.read_csv(losses).set_index("task")["value"]
    best = trials.loc[trials["objective"].idxmax()]
    assert {name: best[f"{name}/loss"] for name in found.index} == pytest.approx(dict(found), rel=1e-6)
    assert best["objective"] == pytest.approx(-found.mean(), rel=1e-6)


@pytest.mark.parametrize("by", ["tasks", "loss"])
def test_a_hopeless_trial_ends_before_its_last_problem(family, asked, tmp_path, capsys, by):
    lines = [json.dumps({"text": f"some words {number} and {number * number}"}) for number in range(40)]
    if by == "tasks":
        (tmp_path / "many.jsonl").write_text("\n".join(lines))
        task = Path(family.task).read_text().replace("plain", "many")
        (tmp_path / "many.yaml").write_text(task)
        on: dict[str, object] = {"tasks": [str(tmp_path / "many.yaml")]}
    else:
        write_corpus(tmp_path / "corpus", {name: [json.loads(line)["text"] for line in lines] for name in ("general",)})
        on = {"tasks": None, "loss": f"{tmp_path / 'corpus'}[-40:]"}
    search = {"parameters.weight": [0.001, 25.0, 0.0]}
    found = {}
    for prune in (True, False):
        out = tmp_path / f"out-{prune}"
        assert main(["sweep", asked(search=search, limit=None, prune=prune, **on), str(out)]) == 0
        found[prune] = pd.read_csv(out / "trials.csv")
    assert found[True]["state"].tolist() == ["done", "pruned", "done"]
    assert found[True]["objective"].isna().tolist() == [False, True, False]
    assert found[False]["objective"][1] < min(found[False]["objective"][[0, 2]])  # which pruning spared
    for name in [column for column in found[True] if "/" in column]:
        assert found[True][name][[0, 2]].tolist() == pytest.approx(found[False][name][[0, 2]].tolist(), rel=1e-5)


def test_wrong_sweeps_are_one_line_and_status_2(asked, tmp_path, capsys):
    assert main(["sweep", asked(search={"parameters.wait": [1]}), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nmerge: error: ") and error.count("\n") == 1 and "did you mean 'weight'" in error
    assert main(["sweep", asked(tasks=["no-such-task.yaml"]), str(tmp_path / "out")]) == 2
    assert "no such file" in capsys.readouterr().err and not (tmp_path / "out").exists()
