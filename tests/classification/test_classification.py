import json
import os
import shutil
import socket
import subprocess
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from nmerge_core import loading
from nmerge_core.activations.store import open_classification
from nmerge_core.checkpoints import fingerprint_weights, open_checkpoint
from nmerge_core.classification.categories import TOLERANCE, categorise
from nmerge_core.classification.classification import classify, compare, neuron_categories
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.files.folders import check_free
from nmerge_core.files.kept_files import Damaged
from nmerge_core.inputs import Places
from nmerge_core.runs import here
from tests.tiny import D_FFN, LAYERS, TEXTS, tiny_model, write_corpus

NAMES = ("general", "code", "math")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two models and a corpus, each model classified with k = 5: (folder, corpus)."""
    folder = tmp_path_factory.mktemp("family")
    corpus = write_corpus(folder / "corpus", TEXTS)
    for seed, name in enumerate(("base", "tuned")):
        tiny_model(folder / name, seed=seed, dtype=torch.bfloat16)
        classify(str(folder / name), corpus, folder / f"{name}-neurons", top_k=5)
    return folder, corpus


def test_every_file_agrees_with_the_scores(made):
    folder, corpus = made[0] / "base-neurons", load_corpus(made[1])
    scores = load_file(folder / "scores.safetensors")
    neurons = pd.read_parquet(folder / "neurons.parquet")
    counts = [f"count_{name}" for name in NAMES]
    assert list(neurons) == ["layer", "neuron", "category", *counts, "undecided", "exemplars", "values"]
    assert len(neurons) == LAYERS * D_FFN
    for row in neurons.itertuples():
        own = scores[f"layer.{row.layer}"][:, row.neuron].float().tolist()  # (exemplars,)
        order = sorted(range(12), key=lambda id: (-own[id], id))[:5]
        assert list(row.exemplars) == order
        assert list(row.values) == [own[id] for id in order]
        votes = {name: sum(corpus.exemplars[id].category == name for id in order) for name in NAMES}
        assert [getattr(row, f"count_{name}") for name in NAMES] == list(votes.values())
        first, second = sorted(votes.values(), reverse=True)[:2]
        assert row.category == (max(votes, key=votes.__getitem__) if first > second else "general")
    summary = pd.read_csv(folder / "summary.csv")
    counted = [
        (layer, name, ((neurons["layer"] == layer) & (neurons["category"] == name)).sum())
        for layer in range(LAYERS)
        for name in NAMES
    ]
    assert list(summary.itertuples(index=False, name=None)) == counted


def test_the_folder_reads_back(made):
    found = open_classification(made[0] / "base-neurons")
    assert (found.label, found.categories, found.layers) == ("base", NAMES, (0, 1))
    assert found.widths == {0: D_FFN, 1: D_FFN}
    assert found.exemplar_categories.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    ids, values = found.top(1)
    assert ids.shape == values.shape == found.positions(1).shape == (D_FFN, 12)
    assert (np.diff(values, axis=1) <= 0).all()
    assert np.array_equal(found.top(1, 3)[0], ids[:, :3])
    assert found.exemplars()["text"].tolist() == [exemplar.text for exemplar in load_corpus(made[1]).exemplars]
    assert found.neurons()["exemplars"][D_FFN].tolist() == ids[0, :5].tolist()
    with pytest.raises(InputError, match="no layer 2; it has layers 0 to 1"):
        found.top(2)


def test_a_folder_of_version_0_2_reads_the_same_and_is_the_same_input(made, tmp_path):
    """meta.json then had `d_ffn`, one number for all layers, in the place of `widths`."""
    new, old = made[0] / "base-neurons", tmp_path / "base-neurons"
    shutil.copytree(new, old)
    meta = json.loads((new / "meta.json").read_text())
    before = {"d_ffn" if key == "widths" else key: D_FFN if key == "widths" else meta[key] for key in meta}
    (old / "meta.json").write_text(json.dumps(before))
    assert open_classification(old).widths == {0: D_FFN, 1: D_FFN}
    pd.testing.assert_frame_equal(compare([old, made[0] / "tuned-neurons"]), compare([new, made[0] / "tuned-neurons"]))
    voting = [before[key] for key in ("layers", "d_ffn", "categories", "exemplar_categories", "top_k", "margin")]
    voted = f"{json.dumps(voting)} {fingerprint_weights([old / 'top.safetensors'])}"
    assert Places(tmp_path).classification(str(old))[1].endswith(sha256(voted.encode()).hexdigest()[:16])
    for damaged in ({"widths": None}, {"widths": [D_FFN]}, {"widths": [D_FFN, "many"]}):
        (old / "meta.json").write_text(json.dumps(meta | damaged))
        with pytest.raises(Damaged, match="meta.json: damaged"):
            open_classification(old)


def test_equal_scores_are_ordered_by_exemplar(tmp_path):
    same = {name: ["a", "a", "b", "b"] for name in ("general", "math")}
    model = tiny_model(tmp_path / "model", dtype=torch.bfloat16)
    classify(model, write_corpus(tmp_path / "corpus", same), tmp_path / "out", top_k=4)
    ids, values = open_classification(tmp_path / "out").top(0)
    assert set(map(tuple, ids.tolist())) == {(0, 1, 4, 5, 2, 3, 6, 7), (2, 3, 6, 7, 0, 1, 4, 5)}
    assert (values[:, :4] == values[:, :1]).all()


def test_batch_size_leaves_the_categories_alone(made, tmp_path):
    """To what is promised on any processor: the order of scores within the tolerance of each other is no result."""
    model = tiny_model(tmp_path / "model")  # float32
    found = []
    for batch_size in (1, 5, "auto"):
        out = tmp_path / f"out-{batch_size}"
        classify(model, made[1], out, top_k=5, batch_size=batch_size)
        found.append(open_classification(out))
    first = found[0].neurons()
    for other in found[1:]:
        neurons = other.neurons()
        settled = ~(first["undecided"] | neurons["undecided"])
        assert settled.sum() > 0.9 * len(first)
        assert neurons["category"][settled].equals(first["category"][settled])
        for layer in range(LAYERS):
            (ids, values), (ids_before, values_before) = other.top(layer, 5), found[0].top(layer, 5)
            np.testing.assert_allclose(values, values_before, rtol=TOLERANCE)
            moved = ids != ids_before  # only among scores that are as good as equal
            own = load_file(other.folder / "scores.safetensors")[f"layer.{layer}"].numpy()  # (exemplars, d_ffn)
            before = np.take_along_axis(own.T, ids_before, axis=1)
            np.testing.assert_allclose(before[moved], values[moved], rtol=TOLERANCE)


def test_layer_by_layer_the_folder_is_that_of_the_whole_model(made, tmp_path, monkeypatch, caplog):
    """Asked for, and by itself where 0.8 of the free memory is less than the weights take."""
    model = tiny_model(tmp_path / "model")
    size = 4 * open_checkpoint(model).parameters
    for name, free in (("whole", 1.26 * size), ("alone", 1.24 * size)):
        monkeypatch.setattr(loading, "available_memory", lambda free=free: free)
        classify(model, made[1], tmp_path / name, top_k=5, device="cpu")
        assert ("has no room" in caplog.text) == (name == "alone")
    classify(model, made[1], tmp_path / "asked", top_k=5, device="cpu", layerwise=True)
    files = {file.name for file in (tmp_path / "whole").iterdir()}
    for name in ("alone", "asked"):
        assert {file.name for file in (tmp_path / name).iterdir()} == files
        for file in files - {"meta.json"}:
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_neurons_whose_category_hangs_on_equal_scores_are_counted(tmp_path):
    same = {name: ["a", "b"] for name in ("general", "math")}  # every score is there once in each category
    model = tiny_model(tmp_path / "model")
    classify(model, write_corpus(tmp_path / "corpus", same), tmp_path / "out", top_k=1)
    found = open_classification(tmp_path / "out")
    assert found.meta["undecided"] == LAYERS * D_FFN
    assert found.neurons()["undecided"].all()


def test_voting_again_equals_the_folder_and_follows_k_and_margin(made):
    found = open_classification(made[0] / "base-neurons")
    again = neuron_categories(found)
    pd.testing.assert_frame_equal(again, found.neurons()[["layer", "neuron", "category"]], check_dtype=False)
    other = neuron_categories(found, k=7, margin=2)
    for layer in range(LAYERS):
        expected = categorise(found.top(layer)[0], found.exemplar_categories, 3, 7, 2)[0]
        assert other.loc[other["layer"] == layer, "category"].tolist() == [NAMES[index] for index in expected]
    assert not other["category"].equals(again["category"])
    with pytest.raises(InputError, match="between 1 and the 12 stored exemplars of a neuron, found 13"):
        neuron_categories(found, k=13)


def test_compare_counts_each_model_and_what_all_agree_on(made):
    folders = [made[0] / "base-neurons", made[0] / "tuned-neurons"]
    frame = compare(folders)
    assert list(frame) == ["layer", "category", "base", "tuned", "intersection"]
    base, tuned = (open_classification(folder).neurons() for folder in folders)
    for row in frame.itertuples():
        ours = (base["layer"] == row.layer) & (base["category"] == row.category)
        theirs = (tuned["layer"] == row.layer) & (tuned["category"] == row.category)
        assert (row.base, row.tuned, row.intersection) == (ours.sum(), theirs.sum(), (ours & theirs).sum())
    assert frame.groupby("layer")["base"].sum().tolist() == [D_FFN] * LAYERS
    one = compare([folders[0], folders[0]], ["a", "b"], k=3)
    assert (one["a"] == one["intersection"]).all()
    strict = compare(folders, margin=5)
    assert strict.query("category != 'general'")["base"].sum() < frame.query("category != 'general'")["base"].sum()


def test_compare_refuses_what_cannot_be_compared(made, tmp_path):
    other = write_corpus(tmp_path / "corpus", {**TEXTS, "math": ["1", "2", "3", "4"]})
    classify(str(made[0] / "base"), other, tmp_path / "other", top_k=5)
    with pytest.raises(
        InputError, match="corpus fingerprint .*, expected .* as in .*classify the models of one family"
    ):
        compare([made[0] / "base-neurons", tmp_path / "other"])
    with pytest.raises(InputError, match="expected a different label for each folder, found a, a"):
        compare([made[0] / "base-neurons", made[0] / "tuned-neurons"], ["a", "a"])
    with pytest.raises(InputError, match=r"expected a folder written by `classify`, found no meta.json"):
        compare([tmp_path])


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 13}, "1 ≤ top-k ≤ 12, found margin 1, top-k 13"),
        ({"top_k": 3, "margin": 4}, "found margin 4, top-k 3"),
        ({"categories": ["physics"]}, "no category physics"),
        ({"batch_size": 0}, "batch size"),
        ({"max_length": 0}, "max_length must be at least 1"),
        ({"device": "abacus"}, "device 'abacus': expected auto, cpu, or a GPU"),
    ],
)
def test_wrong_parameters_leave_nothing_behind(made, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        classify(str(made[0] / "base"), made[1], tmp_path / "runs" / "out", **{"top_k": 5, **arguments})
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("stage", ["Activations of base", "Top exemplars", "Categories"])
def test_a_cancelled_run_leaves_nothing_behind(made, tmp_path, stage):
    def cancel(now, done, total, unit=""):
        if now == stage and done:
            raise Cancelled

    with pytest.raises(Cancelled):
        classify(str(made[0] / "base"), made[1], tmp_path / "out", top_k=5, progress=cancel)
    assert leftovers(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(made, tmp_path):
    (tmp_path / "file").touch()
    reports = []
    with pytest.raises(InputError, match=r"file/deep/out: cannot be written; .*found .*/file$"):
        classify(
            str(made[0] / "base"),
            made[1],
            tmp_path / "file" / "deep" / "out",
            top_k=5,
            progress=lambda *report: reports.append(report),
        )
    assert reports == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_below_a_read_only_one_is_refused(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(InputError, match="cannot be written; .*found .*/locked$"):
        check_free(tmp_path / "locked" / "deep" / "out")


def test_an_existing_folder_is_refused_unless_it_is_empty(made, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    classify(str(made[0] / "base"), made[1], out, top_k=5)
    before = (out / "meta.json").read_bytes()
    with pytest.raises(InputError, match="exists already; expected a new or empty folder"):
        classify(str(made[0] / "tuned"), made[1], out, top_k=5)
    assert (out / "meta.json").read_bytes() == before


def test_a_model_without_a_tokenizer_is_refused(made, tmp_path):
    model = Path(tiny_model(tmp_path / "model"))
    for file in model.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="no tokenizer; expected tokenizer.json"):
        classify(str(model), made[1], tmp_path / "out", top_k=5)


def test_a_model_with_missing_weights_is_refused(made, tmp_path):
    model = Path(tiny_model(tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="1 tensors of the model are missing, model.norm.weight among them"):
        classify(str(model), made[1], tmp_path / "out", top_k=5)


def test_two_processes_write_the_same_folder_as_one_and_keep_it(made, forked, tmp_path, monkeypatch):
    asked = {"model": str(made[0] / "base"), "corpus": made[1], "top_k": 5, "batch_size": 1, "statistics": True}
    given = ["--corpus", made[1], "--top-k", "5", "--batch-size", "1", "--statistics"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*forked, "-m", "nmerge_core", "classify", asked["model"], *given]
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    processes = [subprocess.Popen([*command, "--out", str(tmp_path / "two")], env={**shared, **own}) for own in ranks]
    classify(**asked, out=tmp_path / "one")
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    assert leftovers(tmp_path / "two") == leftovers(tmp_path / "one")
    added = [open_classification(tmp_path / folder).statistics() for folder in ("one", "two")]
    pd.testing.assert_frame_equal(*added, rtol=1e-9)  # sums of sums
    for name in set(leftovers(tmp_path / "one")) - {"statistics.safetensors"}:
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        if name == "meta.json":
            one, two = ({**json.loads(each), "seconds": 0} for each in (one, two))
        assert one == two, name
    kept = here.finished("classify", asked).results
    assert all((kept / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in leftovers(kept))
    assert leftovers(kept) == leftovers(tmp_path / "two")
