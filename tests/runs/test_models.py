"""Models that stay loaded for questions."""

import json
import shutil
from pathlib import Path

from nmerge_core.runs.models import LoadedModels
from tests.tiny import tiny_model


def test_a_copy_with_another_tokenizer_or_other_settings_is_another_model_and_an_equal_copy_the_same(
    tmp_path: Path,
) -> None:
    model = tiny_model(tmp_path / "model")
    for name in ("equal", "reordered", "warm"):
        shutil.copytree(model, tmp_path / name)
    tokenizer = json.loads((tmp_path / "model/tokenizer.json").read_text())
    tokens = tokenizer["model"]["vocab"]
    tokens["a"], tokens["b"] = tokens["b"], tokens["a"]
    (tmp_path / "reordered/tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((tmp_path / "model/generation_config.json").read_text())
    (tmp_path / "warm/generation_config.json").write_text(json.dumps({**settings, "repetition_penalty": 5.0}))
    loaded = LoadedModels()
    first = loaded.get(model)
    assert loaded.get(str(tmp_path / "equal")) is first
    reordered, warm = loaded.get(str(tmp_path / "reordered")), loaded.get(str(tmp_path / "warm"))
    assert reordered.tokenizer("ab")["input_ids"] == first.tokenizer("ab")["input_ids"][::-1]
    assert warm.model.generation_config.repetition_penalty == 5.0
    assert loaded.get(model) is first
