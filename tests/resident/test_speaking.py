"""A merge in memory speaks as the one that is written: by its template, until its end tokens, with its settings."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.resident import LiveMerge, hold_family
from nmerge_core.resident.stream import ResidentStream
from tests.tiny_family import make_family

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def talkers(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The tiny family, whose math has a chat template, another end token and settings of its own."""
    made = make_family(tmp_path_factory.mktemp("talkers"))
    math = Path(made.math)
    (math / "chat_template.jinja").write_text(TEMPLATE)
    (math / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 0], "repetition_penalty": 1.5}))
    return made


@pytest.mark.parametrize("choice", ["auto", "base"])
def test_it_speaks_as_written(talkers: SimpleNamespace, tmp_path: Path, choice: str) -> None:
    entries = [{"model": talkers.math}, {"model": talkers.code}]
    recipe = load_recipe(
        {"merge_method": "ties", "base_model": talkers.base, "models": entries, "chat_template": choice}
    )
    merge(recipe, tmp_path / "out")
    live = LiveMerge(hold_family(recipe), recipe).language_model
    written, model = (
        AutoTokenizer.from_pretrained(tmp_path / "out"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "out"),
    )
    assert live.tokenizer.chat_template == written.chat_template == (TEMPLATE if choice == "auto" else None)
    settings: Any = live.model.generation_config
    assert settings.to_diff_dict() == model.generation_config.to_diff_dict()
    assert settings.eos_token_id == ([5, 0] if choice == "auto" else 0)


def test_it_takes_another_chat_template_without_reading_its_models_again(
    talkers: SimpleNamespace, tmp_path: Path
) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(TEMPLATE)

    def recipe(**given: Any) -> Recipe:
        entries = [{"model": talkers.math}, {"model": talkers.code}]
        return load_recipe({"merge_method": "ties", "base_model": talkers.base, "models": entries, **given})

    live = LiveMerge(hold_family(recipe()), recipe())
    live.follow(recipe())
    held, model = resident(live).bits, live.language_model.model

    def template(choice: str) -> tuple[str | None, int | list[int] | None, int]:
        followed = live.follow(recipe(chat_template=choice))
        settings: Any = live.language_model.model.generation_config
        tokenizer: Any = live.language_model.tokenizer
        return tokenizer.chat_template, settings.eos_token_id, followed.tensors

    assert template("base") == (None, 0, 0)
    assert template(talkers.math) == (TEMPLATE, [5, 0], 0)
    assert template(str(file))[0] == TEMPLATE
    file.write_text(f"{TEMPLATE}!")
    assert template(str(file))[0] == f"{TEMPLATE}!"
    assert live.language_model.model is model and resident(live).bits is held


def resident(live: LiveMerge) -> ResidentStream:
    """The weights that a merge in memory holds of its models."""
    stream = live.family.opened.stream
    assert isinstance(stream, ResidentStream)
    return stream
