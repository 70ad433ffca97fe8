import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nmerge_core.demo import family
from nmerge_core.demo.text import CATEGORIES
from nmerge_core.errors import Cancelled, InputError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return family.write_family(tmp_path_factory.mktemp("demo") / "family")


def _lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_model_loads_and_knows_its_own_text(written):
    losses = {}
    for name in family.MODELS:
        model = AutoModelForCausalLM.from_pretrained(written / name)
        assert model.dtype == torch.bfloat16 and model.config.model_type == "qwen2"
        ids = AutoTokenizer.from_pretrained(written / name)(
            [record["text"] for record in _lines(written / "corpus" / "math.jsonl")[:8]],
            return_tensors="pt",
            padding=True,
        )
        labels = ids["input_ids"].masked_fill(ids["attention_mask"] == 0, -100)  # (8, tokens)
        with torch.inference_mode():
            losses[name] = model(**ids, labels=labels).loss.item()
    assert losses["base"] < 2.5  # nats a token; a model that knows nothing: ln 1536 = 7.3
    assert losses["math"] < losses["base"]


def test_weights_fit_the_size_limit(written):
    total = sum((written / name / "model.safetensors").stat().st_size for name in family.MODELS)
    assert total <= 32 * 2**20


def test_corpus_and_tasks_are_complete_and_disjoint(written):
    for category in CATEGORIES:
        corpus = [record["text"] for record in _lines(written / "corpus" / f"{category}.jsonl")]
        assert len(corpus) == len(set(corpus)) == 300
        tasks = _lines(written / "tasks" / f"{category}.jsonl")
        assert len(tasks) == family.TASK_SIZES[category]
        opening = "text" if category == "general" else "prompt"
        assert not any(text.startswith(record[opening]) for record in tasks for text in corpus)
    fields = {task: set(_lines(written / "tasks" / f"{task}.jsonl")[0]) for task in CATEGORIES}
    assert fields == {
        "general": {"text"},
        "math": {"prompt", "answer"},
        "code": {"prompt", "tests", "entry_point", "solution"},
        "translation": {"prompt", "target", "direction"},
    }


def test_a_complete_family_is_left_alone_and_an_older_one_replaced(written):
    marker = written / "family.json"
    before = marker.stat().st_mtime_ns
    assert family.write_family(written) == written
    assert marker.stat().st_mtime_ns == before
    marker.write_text('{"version": "older"}')
    (written / "stale").write_text("")
    family.write_family(written)
    assert not (written / "stale").exists() and "older" not in marker.read_text()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="expected no folder, an empty one or a demo family"):
        family.write_family(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_cancel_leaves_nothing(tmp_path):
    def cancel(stage: str, done: float, total: float, unit: str = "") -> None:
        if done == 6:
            raise Cancelled

    with pytest.raises(Cancelled):
        family.write_family(tmp_path / "family", cancel)
    assert list(tmp_path.iterdir()) == []
