"""The real worker on tiny models: every kind of run it can do, and both questions."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from nmerge_core.errors import InputError
from nmerge_core.runs import client
from nmerge_core.runs.lock import worker_pid
from nmerge_core.runs.questions import address_at
from tests.tiny_family import make_family


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def real_cache(forked, tmp_path_factory):
    root = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NMERGE_CACHE", str(root))
        patch.setattr(client, "WORKER", (*forked, "-m", "nmerge_core.runs.worker"))
        yield root
    while pid := worker_pid(root):
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


@pytest.fixture
def do(wait, real_cache):
    def submit_and_wait(kind, parameters):
        run = client.submit(kind, parameters)
        wait(lambda: not run.status().active, 300)
        assert run.status().state == "done", run.status().message + run.log()
        return run

    return submit_and_wait


def test_classify_then_knock_out_by_the_run_s_id(do, family):
    classified = do("classify", {"model": family.base, "corpus": family.corpus, "top_k": 5})
    neurons = pd.read_parquet(classified.results / "neurons.parquet")
    assert len(neurons) == 2 * 48
    parameters = {"model": family.base, "neurons": classified.id, "category": neurons["category"].mode()[0],
                  "layers": [0], "proportions": [1.0], "task": family.task, "repeats": 1, "limit": 1}  # fmt: skip
    assert "random" in set(pd.read_csv(do("knockout", parameters).results / "knockout.csv")["group"])


def test_cosine_and_linearity(do, family):
    results = do("cosine", {"base": family.base, "models": [family.math]}).results
    assert len(pd.read_csv(results / "cosine.csv")) == 6 and (results / "moved.csv").exists()
    assert len(pd.read_parquet(results / "turned.parquet")) == 2 * 48
    assert pd.read_parquet(results / "between.parquet").empty  # one fine-tune alone
    parameters = {"base": family.base, "models": [family.math, family.code], "corpus": family.corpus, "samples": 2}
    assert not (do("linearity", parameters).results / "coefficients.csv").exists()
    solved = do("linearity", {**parameters, "categories": ["math", "code"]}).results
    assert len(pd.read_csv(solved / "linearity.csv")) == 2 * 2 * 2 * 9
    assert set(pd.read_csv(solved / "coefficients.csv")["submodule"]) == {"attention", "mlp"}


def test_merge_then_evaluate_what_it_made(do, family):
    recipe = {"merge_method": "task_arithmetic", "base_model": family.base, "models": [{"model": family.math}]}
    merged = do("merge", {"recipe": recipe})
    checkpoint = merged.results / "merged"
    assert (checkpoint / "nmerge_report.json").exists()
    assert client.lookup("merge", {"recipe": {**recipe, "seed": 0}}) == merged  # the default, written out
    scores = do("evaluate", {"models": [family.base, str(checkpoint)], "tasks": [family.task], "limit": 2})
    assert list(pd.read_csv(scores.results / "scores.csv")["model"]) == ["base", "merged"]


@pytest.mark.mergekit
def test_a_merge_by_mergekit_that_fails_says_where(real_cache, wait, family):
    recipe = {"engine": "mergekit", "merge_method": "slerp", "base_model": family.base, "parameters": {"t": 0.5}}
    recipe["models"] = [{"model": family.base}, {"model": family.math}]
    broken = client.submit("merge", {"recipe": {**recipe, "tokenizer_source": "base", "chat_template": "none"}})
    wait(lambda: not broken.status().active, 300)
    status = broken.status()
    assert (status.state, status.unit) == ("failed", "steps") and "Invalid chat template" in status.message
    assert 'File "' in broken.log() and "_set_chat_template" in broken.log()  # where, in mergekit
    assert not broken.results.exists() and not broken.part.exists()


def test_questions(real_cache, family):
    texts = ["one plus two", "def f():"]
    found = client.ask("token_activations", timeout=120, model=family.base, layer=1, neuron=3, texts=texts)
    assert ["".join(text["tokens"]) for text in found] == texts
    assert all(len(text["values"]) == len(text["tokens"]) for text in found)
    continued = client.ask("generate", model=family.base, prompt="one", max_new_tokens=3)
    assert isinstance(continued, str) and continued == client.ask(
        "generate", model=family.base, prompt="one", max_new_tokens=3
    )
    with pytest.raises(InputError, match="nowhere: no such folder"):
        client.ask("generate", model="nowhere", prompt="one")


def test_a_worker_killed_while_a_merge_is_tuned_is_told_of_and_the_same_candidate_goes_on(real_cache, wait, family):
    chosen = [{"model": family.math}, {"model": family.code}]
    recipe = {"merge_method": "task_arithmetic", "base_model": family.base, "models": chosen}
    asked = partial(client.ask, "live", timeout=120, session="page", prompt="one", more=4)
    first = asked(recipe=recipe)
    assert first["reread"] == ""
    lost, left = worker_pid(real_cache), Path(address_at(real_cache).address).parent
    os.kill(lost, signal.SIGKILL)
    found = asked(recipe=recipe)
    assert not left.exists()
    assert worker_pid(real_cache) != lost and found["answer"] == first["answer"] and found["next"] == first["next"]
    assert found["reread"] == "The models were read again: the worker process was lost (killed, or out of memory)."
    assert asked(recipe=recipe)["reread"] == ""
