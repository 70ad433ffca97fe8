"""A collection that was stopped goes on: the exemplars it noted are not run again, and the scores are the same bits."""

import pytest
import torch

from nmerge_core.activations import collect as collecting
from nmerge_core.activations import kept
from nmerge_core.activations.collect import collect
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.loading import load_model
from nmerge_core.runs import here
from nmerge_core.runs.folder import list_runs
from tests.tiny import TEXTS, tiny_model, write_corpus


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("kept")
    return tiny_model(root / "model"), write_corpus(root / "corpus", TEXTS)


def stop(stage, done, total, unit=""):
    if stage.startswith("Activations") and done >= 0.7 * total:  # 9 of 12
        raise KeyboardInterrupt


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stopped_collection_goes_on(made, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(kept, "_PACE", 0.0)
    loaded, corpus = load_model(made[0], "cpu", str(dtype).removeprefix("torch.")), load_corpus(made[1])
    expected = collect(loaded, corpus, batch_size=3)
    with pytest.raises(KeyboardInterrupt):
        collect(loaded, corpus, batch_size=3, folder=tmp_path, progress=stop)
    run, sizes = collecting.run_body, []

    def counted(language_model, tokens, mask):
        sizes.append(len(tokens))
        run(language_model, tokens, mask)

    monkeypatch.setattr(collecting, "run_body", counted)
    scores = collect(loaded, corpus, batch_size=3, folder=tmp_path)
    assert sizes == [3]  # 9 of 12 were noted
    assert all(map(torch.equal, scores.values, expected.values)) and scores.values[0].dtype == dtype
    assert all(map(torch.equal, scores.positions, expected.positions))
    again = collect(loaded, corpus, batch_size=3, folder=tmp_path)  # what is done is done
    assert sizes == [3] and all(map(torch.equal, again.values, expected.values))


def test_what_is_noted_of_other_work_is_no_beginning(made, tmp_path, monkeypatch):
    loaded, corpus = load_model(made[0], "cpu"), load_corpus(made[1])
    collect(loaded, corpus, folder=tmp_path)
    fewer = load_corpus(made[1], ["math"])
    scores, expected = collect(loaded, fewer, folder=tmp_path), collect(loaded, fewer)
    torch.testing.assert_close(scores.values, expected.values)


def test_an_interrupted_run_goes_on_and_leaves_what_any_other_leaves(made, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "_PACE", 0.0)
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path))
    asked = {"model": made[0], "corpus": made[1], "top_k": 3, "batch_size": 3}
    with pytest.raises(KeyboardInterrupt):
        here.do("classify", asked, stop)
    [run] = list_runs(tmp_path)
    assert run.status().message.endswith("Start it again to continue.")
    told = []
    run = here.do("classify", asked, lambda stage, done, *_: told.append((stage, done)))
    assert told[0][0].startswith("Activations") and told[0][1] == 9
    assert {file.name for file in run.results.iterdir()} == {
        "neurons.parquet", "summary.csv", "meta.json", "top.safetensors", "scores.safetensors", "exemplars.parquet"
    }  # fmt: skip
