"""The commands of analysis, end to end on a tiny family: what they write and print."""

import json

import pandas as pd
import pytest

from nmerge_core.cli import main
from nmerge_core.corpus.corpus import load_corpus
from tests.tiny import write_corpus


def test_classify_writes_the_folder_and_prints_neurons_per_layer(family, tmp_path, capsys):
    asked = ["classify", family.base, "--corpus", family.corpus, "--out", str(tmp_path / "out"), "--statistics"]
    assert main(asked) == 0
    printed = capsys.readouterr().out.splitlines()
    neurons = pd.read_parquet(tmp_path / "out" / "neurons.parquet")
    assert neurons.groupby("layer").size().to_dict() == {0: 48, 1: 48}
    assert printed[0].split() == ["category", "code", "general", "math"] and printed[1].split() == ["layer"]
    table = {int(layer): [*map(int, counts)] for layer, *counts in map(str.split, printed[2:-1])}
    categories = [[*neurons.loc[neurons["layer"] == layer, "category"]] for layer in (0, 1)]
    assert table == {
        layer: [found.count(category) for category in ("code", "general", "math")]
        for layer, found in enumerate(categories)
    }
    assert printed[-1].startswith("run in float32; ")
    again = ["classify", family.base, "--corpus", family.corpus, "--out", str(tmp_path / "short")]
    assert main([*again, "--run-dtype", "bfloat16"]) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "short"), str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    short = pd.read_parquet(tmp_path / "short" / "neurons.parquet")
    share = (short["category"] != neurons["category"]).mean()
    assert f"{share:.2%} of the neurons of {tmp_path / 'short'} have another category in float32" in printed
    assert "base in bfloat16" in printed and "base in float32" in printed
    table = tmp_path / "statistics.csv"
    assert main(["compare", str(tmp_path / "out"), "--statistics", str(table)]) == 0
    assert len(pd.read_csv(table)) == 2 * 48 and pd.read_csv(table)["tokens"].gt(0).all()


def test_a_stopped_classification_goes_on(family, tmp_path, monkeypatch, capsys):
    from nmerge_core.activations import collect, kept

    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "_PACE", 0.0)  # seconds between notes of how far it is
    asked = ["classify", family.base, "--corpus", family.corpus, "--batch-size", "2", "--out"]
    run, batches = collect.run_body, list[object]()

    def stop(*given):
        if len(batches) == 3:
            raise KeyboardInterrupt
        batches.append(given)
        run(*given)

    monkeypatch.setattr(collect, "run_body", stop)
    assert main([*asked, str(tmp_path / "out")]) == 130
    assert len(batches) == 3 and not (tmp_path / "out").exists()
    batches.append("another")
    assert main([*asked, str(tmp_path / "out")]) == 0
    total = len(load_corpus(family.corpus).exemplars)
    assert len(batches) - 1 == total / 2  # none of the first three again
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "another"))
    assert main([*asked, str(tmp_path / "whole")]) == 0
    names = ("neurons.parquet", "scores.safetensors", "top.safetensors")
    assert all((tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)


def test_an_existing_folder_is_refused(family, classified, capsys):
    assert main(["classify", family.base, "--corpus", family.corpus, "--out", str(classified[0])]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("nmerge: error: ") and "base-neurons" in error


def test_compare(classified, tmp_path, capsys):
    out = tmp_path / "compare.csv"
    assert main(["compare", *map(str, classified), "--out", str(out)]) == 0
    found = pd.read_csv(out)
    assert list(found.columns) == ["layer", "category", "base", "math", "intersection"]
    assert found["base"].sum() == found["math"].sum() == 2 * 48
    assert "intersection" in capsys.readouterr().out
    assert main(["compare", *map(str, classified), "--top-k", "3", "--neurons", str(out)]) == 0
    neurons = pd.read_csv(out)
    assert list(neurons) == ["model", "layer", "neuron", "category", "lead", "support"] and len(neurons) == 2 * 2 * 48
    assert "support, the share of corpora with the texts drawn again" in capsys.readouterr().out


def test_compare_tells_how_far_two_corpora_agree(family, classified, tmp_path, capsys):
    texts: dict[str, list[str]] = {each.category: [] for each in load_corpus(family.corpus).exemplars}
    for each in load_corpus(family.corpus).exemplars:
        texts[each.category].insert(0, each.text[::-1])
    other, out = tmp_path / "other", tmp_path / "agreement.csv"
    corpus = write_corpus(tmp_path / "corpus", texts)
    assert main(["classify", family.base, "--corpus", corpus, "--out", str(other), "--top-k", "5"]) == 0
    capsys.readouterr()
    assert main(["compare", str(classified[0]), str(other), "--agreement", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "share, Cohen's κ and IoU" in printed and "intersection" not in printed
    [found] = pd.read_csv(out).to_dict("records")
    one, two = (pd.read_parquet(folder / "neurons.parquet")["category"] for folder in (classified[0], other))
    assert found["model"] == str(other) and found["share"] == pytest.approx((one == two).mean())
    math, other_math = one == "math", two == "math"
    assert found["IoU math"] == pytest.approx((math & other_math).sum() / (math | other_math).sum())
    assert main(["compare", *map(str, classified), "--agreement", str(out)]) == 0
    assert "intersection" in capsys.readouterr().out  # of the same texts neurons are counted too
    assert main(["compare", str(other), "--agreement", str(out)]) == 2


def test_cosine(family, tmp_path, capsys):
    out, moved = tmp_path / "cosine.csv", tmp_path / "moved.csv"
    assert main(["cosine", family.base, family.math, "--out", str(out), "--moved", str(moved)]) == 0
    found = pd.read_csv(out)
    assert len(found) == 2 * 3 and found["mean"].between(0.5, 1).all()
    assert len(pd.read_csv(moved)) == 3 * 50
    assert "gate" in capsys.readouterr().out
    files = {option: tmp_path / f"{option}.csv" for option in ("neurons", "between", "conflicts")}
    named = [part for option, file in files.items() for part in (f"--{option}", str(file))]
    assert main(["cosine", family.base, family.math, family.code, *named]) == 0
    neurons, between, conflicts = (pd.read_csv(file) for file in files.values())
    assert list(neurons) == ["model", "layer", "neuron", "cosine", "change", "parallel"] and len(neurons) == 2 * 2 * 48
    assert set(between["one"]) == {"math"} and set(between["other"]) == {"code"} and len(between) == 2 * 48
    assert conflicts["opposed"].is_monotonic_decreasing
    assert sorted(conflicts["opposed"]) == pytest.approx(sorted(between["opposed"]))  # of the one pair that there is


def test_interference_has_the_worst_matrix_first(family, tmp_path, capsys):
    out = tmp_path / "interference.csv"
    assert main(["interference", family.base, family.math, family.code, "--out", str(out)]) == 0
    found = pd.read_csv(out)
    shared = found["interference"] / found["chance"]
    assert len(found) == 2 * 7 and shared.is_monotonic_decreasing and shared.iloc[0] > 0
    assert "mlp.up_proj" in capsys.readouterr().out
    assert main(["interference", family.base, family.math]) == 2


def test_inherited(family, tmp_path, capsys):
    out, mine = tmp_path / "inherited.csv", tmp_path / "mine.yaml"
    mine.write_text(f"base: {family.base}\nmodels: {{sums: {family.math}}}\n")
    assert main(["inherited", family.code, str(mine), "--out", str(out)]) == 0
    assert len(pd.read_csv(out)) == 2 * 48 and set(pd.read_csv(out)["model"]) == {"sums"}
    assert capsys.readouterr().out.splitlines()[0].split() == ["layer", "model", "neurons", "kept"]


def test_knockout(family, classified, tmp_path, capsys):
    out = tmp_path / "knockout.csv"
    category = pd.read_parquet(classified[0] / "neurons.parquet")["category"].mode()[0]
    assert main(
        ["knockout", family.base, "--neurons", str(classified[0]), "--category", category, "--layers", "0-1",
         "--proportions", "0.5,1", "--task", family.task, "--repeats", "2", "--limit", "2", "--out", str(out)]
    ) == 0  # fmt: skip
    found = pd.read_csv(out)
    assert set(found["group"]) == {category, "random"}
    assert {0.5, 1.0} <= set(found["proportion"])
    assert "random" in capsys.readouterr().out


def test_effects_and_a_list_kept_alone_by_loss(family, classified, tmp_path, capsys):
    out, effects = tmp_path / "out.csv", tmp_path / "effects.csv"
    asked = [family.base, "--neurons", str(classified[0]), "--loss", family.corpus, "--repeats", "1", "--limit", "2"]
    asked += ["--lists", '{"loud": [[0, 1], [1, 2]]}']
    assert main(["effects", *asked, "--categories", "loud", "--out", str(out)]) == 0
    found = pd.read_csv(out)
    assert set(zip(found["category"], found["layer"], found["neurons"], strict=True)) == {
        ("loud", 0, 1),
        ("loud", 1, 1),
    }
    assert set(found["metric"]) == {"loss", "general/loss", "math/loss", "code/loss"}
    assert capsys.readouterr().out.splitlines()[0].split()[:4] == ["layer", "category", "neurons", "metric"]
    kept = ["--keep-only", "--category", "loud", "--proportions", "1", "--out", str(out), "--effects", str(effects)]
    assert main(["knockout", *asked, *kept]) == 0
    assert set(pd.read_csv(out)["group"]) == {"intact", "loud", "random"}
    assert list(pd.read_csv(effects)["neurons"]) == [2] * 4
    assert main(["knockout", *asked, *kept, "--task", family.task]) == 2
    assert "expected a task, or by `loss` a corpus whose held-out texts are read; found both" in capsys.readouterr().err


def test_linearity_with_coefficients(family, tmp_path, capsys):
    out, coefficients = tmp_path / "linearity.csv", tmp_path / "coefficients.csv"
    assert main(
        ["linearity", family.base, family.math, family.code, "--corpus", family.corpus, "--samples", "2",
         "--out", str(out), "--coefficients", str(coefficients)]
    ) == 0  # fmt: skip
    assert len(pd.read_csv(out)) == 2 * 2 * 2 * 9  # models, layers, attention and mlp, alphas
    assert len(pd.read_csv(coefficients)) == 2 * 2 * 2
    assert "attention" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "method"), [("fisher", "fisher"), ("gram", "regmean")])
def test_statistics_are_collected_and_merged_by(family, tmp_path, capsys, kind, method):
    entries = []
    for name in ("math", "code"):
        out = tmp_path / f"{name}-{kind}"
        asked = ["--corpus", family.corpus, "--categories", name, "--samples", "4", "--kind", kind, "--out", str(out)]
        assert main(["statistics", getattr(family, name), *asked]) == 0
        printed = capsys.readouterr().out
        assert f"categories    {name}\n" in printed and "texts                  4\n" in printed
        assert main(["statistics", getattr(family, name), *asked]) == 2
        assert "exists already" in capsys.readouterr().err
        entries.append({"model": getattr(family, name), "parameters": {"statistics": out.name}})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"merge_method": method, "models": entries}))
    assert main(["merge", str(recipe), str(tmp_path / "merged"), "--dry-run"]) == 0
    assert "running the models" not in capsys.readouterr().out
    assert main(["merge", str(recipe), str(tmp_path / "merged")]) == 0
    assert str(tmp_path / f"math-{kind}") in (tmp_path / "merged" / "nmerge_recipe.yaml").read_text()
    assert main(["statistics", family.math, "--corpus", family.corpus, "--kind", kind, "--categories", "poetry",
                 "--out", str(tmp_path / "none")]) == 2  # fmt: skip
    assert "no category poetry" in capsys.readouterr().err and not (tmp_path / "none").exists()
