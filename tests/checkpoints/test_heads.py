"""Heads and labels: what a classifier's rows stand for is compared before they are merged."""

import json
import math
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification

from nmerge_core.checkpoints import inspect_family
from nmerge_core.errors import InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe

SIZES = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": 20}


def classifier(folder: Path, labels: list[str] | None, count: int = 2) -> str:
    config = AutoConfig.for_model("bert", **SIZES, max_position_embeddings=16, num_labels=count)
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: id for id, label in enumerate(labels)}
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return str(folder)


def recipe_of(base: str, *models: str):
    entries = [{"model": model} for model in models]
    return load_recipe({"merge_method": "task_arithmetic", "base_model": base, "models": entries})


def test_the_same_labels_in_another_order_are_refused(tmp_path: Path) -> None:
    base = classifier(tmp_path / "base", None)
    ours = classifier(tmp_path / "ours", ["negative", "positive"])
    alike = classifier(tmp_path / "alike", ["NEGATIVE", "POSITIVE"])
    theirs = classifier(tmp_path / "theirs", ["positive", "negative"])
    assert inspect_family(base, [ours, alike]).mergeable  # LABEL_0 and LABEL_1 are nobody's names
    with pytest.raises(InputError) as error:
        merge(recipe_of(base, ours, theirs), tmp_path / "out")
    assert str(error.value).splitlines()[1].strip() == (
        "theirs: config.json, key 'id2label': the rows of its head classifier.weight stand for the same labels in "
        "another order: 0 'positive'; 1 'negative' where ours has 0 'negative'; 1 'positive'; rows of unlike labels "
        "would be merged. Put the head's rows, id2label and label2id in one order first"
    )
    assert "another order" in inspect_family(ours, [theirs]).errors[0]
    only = tmp_path / "theirs/config.json"  # one of the two keys is enough
    only.write_text(json.dumps({k: v for k, v in json.loads(only.read_text()).items() if k != "id2label"}))
    assert "another order" in inspect_family(ours, [theirs]).errors[0]
    assert not inspect_family(ours, [theirs]).mergeable


def test_other_labels_are_told(tmp_path: Path) -> None:
    ours, theirs = (classifier(tmp_path / name, [name, "x"]) for name in ("joy", "spam"))
    report = inspect_family(ours, [theirs])
    assert report.mergeable
    assert any("rows of its head classifier.weight stand for other labels: 0 'spam'; 1" in w for w in report.warnings)


def test_unlike_heads_are_named_as_heads_with_their_labels(tmp_path: Path) -> None:
    ours = classifier(tmp_path / "ours", ["no", "yes"])
    theirs = classifier(tmp_path / "theirs", ["bad", "fair", "good"], 3)
    (error,) = inspect_family(ours, [theirs]).errors
    assert error.startswith("theirs: its head is not the base's: classifier.bias: expected [2], found [3]; classif")
    assert "labels of ours: 0 'no'; 1 'yes'; labels of theirs: 0 'bad'; 1 'fair'; 2 'good'" in error
    config = AutoConfig.for_model("bert", **SIZES, max_position_embeddings=16)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "masked")
    (error,) = inspect_family(str(tmp_path / "masked"), [ours]).errors
    assert error.startswith("ours: its head is not the base's: it lacks the base's (cls.predictions")
    assert "as BertForSequenceClassification where the base is BertForMaskedLM" in error and "0 'no'; 1 'yes'" in error


def test_labels_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    ours, theirs = classifier(tmp_path / "ours", ["no", "yes"]), classifier(tmp_path / "theirs", ["no", "yes"])
    file = tmp_path / "theirs/config.json"
    config = json.loads(file.read_text())
    for wrong in ({"id2label": {"zero": "no", "1": "yes"}}, {"id2label": None, "label2id": {"no": math.inf}}):
        file.write_text(json.dumps({**config, **wrong}))
        report = inspect_family(ours, [theirs])
        assert any("key 'id2label': expected a label for each number from 0" in error for error in report.errors)
