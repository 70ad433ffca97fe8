"""The commands that are not of analysis, end to end on tiny models: tables, CSV and exit status."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

import nmerge_core as nm
from nmerge_core.cli import main
from nmerge_core.evaluation.scores import COLUMNS


def test_inspect_prints_facts_and_json(family, capsys):
    assert main(["inspect", family.base, family.math]) == 0
    table = capsys.readouterr().out
    assert "qwen2" in table and "neuronal" in table
    assert main(["inspect", "--json", family.base]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["mergeable"] and report["models"][0]["d_ffn"] == 48


def test_a_table_goes_into_a_pipe_or_a_device_as_it_is(family, tmp_path, capsys):
    (tmp_path / "full.csv").symlink_to("/dev/full")
    assert main(["cosine", family.base, family.math, "--out", str(tmp_path / "full.csv")]) == 2
    assert "No space left on device; check that the disk has room" in capsys.readouterr().err
    assert (tmp_path / "full.csv").is_symlink()
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        read = pool.submit(pipe.read_text)
        assert main(["cosine", family.base, family.math, "--out", str(pipe)]) == 0
    assert read.result().startswith("model,layer,") and pipe.is_fifo()


def test_a_family_s_yaml_stands_for_its_models(family, tmp_path, capsys):
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"base: {family.base}\nmodels: {{math: {{model: {family.math}, label: sums}}}}\n")
    mine.write_text(f"{mine.read_text()}corpus: {family.corpus}\n")
    assert main(["inspect", str(mine)]) == 0
    assert "repeated" in capsys.readouterr().out
    assert main(["inspect", "--json", str(mine)]) == 0
    assert [model["label"] for model in json.loads(capsys.readouterr().out)["models"]] == ["base", "math"]
    out, coefficients = tmp_path / "out.csv", tmp_path / "coefficients.csv"
    assert main(["cosine", str(mine), "--out", str(out)]) == 0
    assert set(pd.read_csv(out)["model"]) == {"sums"}
    assert main(["evaluate", str(mine), "--tasks", family.task, "--limit", "2", "--out", str(out)]) == 0
    assert list(pd.read_csv(out)["model"].unique()) == ["base", "sums"]
    asked = ["linearity", str(mine), "--corpus", family.corpus, "--samples", "2", "--coefficients", str(coefficients)]
    assert main(asked) == 0
    assert set(pd.read_csv(coefficients)["model"]) == {"sums"}
    for command in ("cosine", "linearity"):
        assert main([command, family.base, *(["--corpus", "c"] if command == "linearity" else [])]) == 2
        assert "expected fine-tunes after the base, or a family's YAML" in capsys.readouterr().err


def test_merge_and_dry_run(family, tmp_path, capsys):
    out = tmp_path / "merged"
    assert main(["merge", str(family.recipe), str(out), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "writes" in told and not out.exists()
    assert main(["merge", str(family.recipe), "--dry-run"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines() if "free" not in line] == [
        line.split()[:2] for line in told.splitlines() if "free" not in line
    ]
    with pytest.raises(SystemExit):
        main(["merge", str(family.recipe)])
    assert "the following arguments are required: OUT" in capsys.readouterr().err
    assert main(["merge", str(family.recipe), "--device", "cpu", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n"
    size = json.loads((out / "nmerge_report.json").read_text())["bytes_written"]
    assert (
        f"nmerge: wrote {size / 1e6:,.1f} MB in " in printed.err and " MB of memory at most; score it: " in printed.err
    )
    scored = f"nmerge evaluate {family.base} {out} --tasks TASK --compare {family.base}"
    assert printed.err.rstrip().endswith(scored)
    assert (out / "config.json").exists() and (out / "nmerge_report.json").exists()
    assert main(["merge", str(family.recipe), str(out)]) == 2
    assert "exists" in capsys.readouterr().err


def test_evaluate(family, tmp_path, capsys):
    out = tmp_path / "scores.csv"
    assert main(["evaluate", family.base, family.math, "--tasks", family.task, "--limit", "3", "--out", str(out)]) == 0
    found = pd.read_csv(out)
    assert list(found.columns) == COLUMNS
    assert list(found["model"]) == ["base", "math"] and set(found["samples"]) == {3}
    printed = capsys.readouterr().out
    assert "bits_per_byte" in printed and "all by examples 0, chat template no, decoding alike, batch" in printed
    samples = tmp_path / "samples"
    again = ["evaluate", family.base, family.math, "--tasks", family.task, "--limit", "3", "--samples", str(samples)]
    assert main([*again, "--compare", family.base]) == 0
    printed = capsys.readouterr().out
    assert "paired bootstrap" in printed and "difference from base" in printed
    lines = [json.loads(line) for line in (samples / "math.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [0, 1, 2] and lines[0]["reference"].startswith("some words")
    assert sorted(file.name for file in samples.iterdir()) == ["base.jsonl", "math.jsonl"]
    assert main([*again, "--compare", "mth"]) == 2
    assert "--compare: expected one of" in capsys.readouterr().err


def test_evaluate_by_held_out_texts(family, tmp_path, capsys):
    out, corpus = tmp_path / "scores.csv", f"{family.corpus}[:-3]"
    assert main(["evaluate", family.base, family.math, "--loss", corpus, "--out", str(out)]) == 0
    alone = pd.read_csv(out)
    assert list(alone["model"]) == ["base"] * 3 + ["math"] * 3 and set(alone["metric"]) == {"loss"}
    texts = nm.loss(family.math, corpus, progress=False).texts.query("category == 'code'")["loss"]
    assert alone["value"][4] == pytest.approx(texts.mean())
    assert alone["stderr"][4] == pytest.approx(texts.std() / 3**0.5)
    assert main(["evaluate", family.base, "--tasks", family.task, "--loss", corpus, "--out", str(out)]) == 0
    assert list(pd.read_csv(out)["metric"]) == ["bits_per_byte", *["loss"] * 3]
    assert main(["evaluate", family.base, family.math, "--loss", corpus, "--compare", "base"]) == 0
    assert capsys.readouterr().out.count("paired bootstrap") == 3
    capsys.readouterr()
    assert main(["evaluate", family.base]) == 2
    assert "expected --tasks, or --loss with a corpus, found neither" in capsys.readouterr().err


def test_paths_may_start_at_the_users_folder(family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(family.root))
    assert main(["merge", "~/recipe.yaml", "~/merged-here"]) == 0
    assert main(["cosine", "~/base", "~/math", "--out=~/cosine.csv"]) == 0
    assert (family.root / "merged-here/config.json").exists() and (family.root / "cosine.csv").exists()
    assert not (tmp_path / "~").exists()


def test_demo_is_written_once_and_then_left_alone(tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    before = (out / "base" / "config.json").stat().st_mtime_ns
    assert main(["demo", "--out", str(out)]) == 0
    assert (out / "base" / "config.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["inspect", "nowhere"], "nowhere: no such folder"),
        (["merge", "nowhere.yaml", "out"], "nowhere.yaml"),
        (["compare", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("nmerge: error: ") and error.count("\n") == 1 and expected in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["clasify"], "did you mean classify?"),
        (["classify", "m", "--corpus", "c", "--out", "o", "--topk", "5"], "did you mean --top-k?"),
        (["knockout", "m", "--neurons", "n", "--category", "c", "--task", "t", "--layers", "5-3"], "such as 1,3-5"),
        (["evaluate", "m", "--tasks", "t", "--limit", "0"], "whole number from 1"),
        (["linearity", "a", "b", "--corpus", "c", "--samples", "-1"], "--samples: expected a whole number from 1"),
        (["linearity", "a", "b", "--corpus", "c", "--seed", "-1"], "--seed: expected a whole number from 0"),
        (["knockout", "m", "--lists", "loud.csv"], "--lists: expected {name: [[layer, neuron], …]}"),
        (["knockout", "m", "--repeats", "0"], "--repeats: expected a whole number from 1"),
        (["knockout", "m", "--seed", "-1"], "--seed: expected a whole number from 0"),
        (["statistics", "m", "--corpus", "c", "--out", "o", "--kind", "hessian"], "invalid choice: 'hessian'"),
        (["classify", "m", "--top-k", "0"], "--top-k: expected a whole number in [1, 50]"),
        (["classify", "m", "--margin", "-1"], "--margin: expected a whole number in [0, 50]"),
        (["classify", "m", "--max-length", "0"], "--max-length: expected a whole number from 1"),
        (["extract", "a", "b", "o", "--rank", "0"], "--rank: expected a whole number from 1"),
        (["compare", "d", "--top-k", "ten"], "--top-k: expected a whole number in [1, 50]"),
        (["cosine", "a", "b", "--out", "nowhere/at/all.csv"], "there is no folder"),
        (["merge", "r.yaml", "~no-such-user/x"], "there is no user ~no-such-user"),
        (["merge", "r.yaml", "o" * 201], "expected names of at most 200 bytes"),
        (["cosine", "a", "b", "--out", f"{'o' * 300}.csv"], "expected names of at most 200 bytes"),
        (["classify", "m", "--corpus", "c", "--out", "o/" * 3000], "expected names of at most 200 bytes"),
        ([], "COMMAND"),
    ],
)
def test_a_wrong_command_line_is_status_2_before_any_work(arguments, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_table_that_cannot_be_written_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(SystemExit) as stop:
        main(["cosine", "a", "b", "--out", str(tmp_path / "locked" / "all.csv")])
    assert stop.value.code == 2
    assert "locked cannot be written" in capsys.readouterr().err


def test_a_failure_of_ours_is_status_1_and_hides_the_traceback_unless_asked(family, tmp_path, capsys, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path))  # where it was not done before
    monkeypatch.setattr("nmerge_core.similarity.measure.cosine", broken)
    assert main(["cosine", family.base, family.math]) == 1
    error = capsys.readouterr().err
    assert "Internal error (ZeroDivisionError: division by zero)" in error and "Traceback" not in error
    monkeypatch.setenv("NMERGE_DEBUG", "1")
    assert main(["cosine", family.base, family.math]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_what_a_run_has_done_is_taken_from_there(family, tmp_path, capsys, monkeypatch):
    from nmerge_core.runs import here

    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    run = here.do("classify", {"model": family.base, "corpus": family.corpus, "top_k": 4})
    asked = ["classify", family.base, "--corpus", family.corpus, "--top-k"]
    assert main([*asked, "4", "--out", str(tmp_path / "same")]) == 0
    assert f"taken from {run.results}" in capsys.readouterr().err
    names = sorted(file.name for file in run.results.iterdir())
    assert sorted(file.name for file in (tmp_path / "same").iterdir()) == names
    assert all((tmp_path / "same" / name).read_bytes() == (run.results / name).read_bytes() for name in names)
    assert main([*asked, "3", "--out", str(tmp_path / "other")]) == 0
    kept = here.finished("classify", {"model": family.base, "corpus": family.corpus, "top_k": 3})
    told = capsys.readouterr().err
    assert f"the app finds it too, in {kept.folder}" in told and "taken from" not in told
    assert all((tmp_path / "other" / name).read_bytes() == (kept.results / name).read_bytes() for name in names)
    meta = json.loads((tmp_path / "same/meta.json").read_text())
    del meta["taken_over"]  # as runs of older versions are
    (tmp_path / "same/meta.json").write_text(json.dumps(meta))
    here.keep("classify", {"model": family.base, "corpus": family.corpus, "top_k": 5}, tmp_path / "same")
    assert main([*asked, "5", "--out", str(tmp_path / "older")]) == 0
    capsys.readouterr()
    merged = here.do("merge", {"recipe": family.recipe}).results / "merged"
    assert main(["merge", str(family.recipe), str(tmp_path / "merged")]) == 0
    assert "taken from" in capsys.readouterr().err
    assert (tmp_path / "merged/model.safetensors").read_bytes() == (merged / "model.safetensors").read_bytes()


def test_all_reasons_against_a_merge_are_told(family, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("merge_method: linear\nmodels: [{model: ./gone}, {model: ./lost}]\n")
    assert main(["merge", str(recipe), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "gone" in error and "lost" in error


def test_a_masked_language_model_is_not_scored(family, tmp_path, capsys):
    from transformers.models.bert import BertConfig, BertForMaskedLM

    from tests.tiny import tiny_tokenizer

    config = BertConfig(
        vocab_size=257, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    for name, decoder, status in (("encoder", False, 2), ("decoder", True, 0)):
        tiny_tokenizer(tmp_path / name)
        config.is_decoder = decoder
        BertForMaskedLM(config).save_pretrained(tmp_path / name)
        assert main(["evaluate", str(tmp_path / name), "--tasks", family.task, "--limit", "1"]) == status
        assert ("found a masked language model ('bert' without 'is_decoder')" in capsys.readouterr().err) != decoder
