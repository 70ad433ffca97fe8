"""The question that a page asks of a merge in memory."""

from pathlib import Path
from typing import Any

import pytest

from nmerge_core.errors import InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.progress import silent
from nmerge_core.runs import models
from nmerge_core.runs.operations import _LIVE, OPERATIONS, QUESTIONS
from tests.tiny_family import make_family


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


def content(family, method: str, **parameters: Any) -> dict[str, Any]:
    chosen = [{"model": family.math}, {"model": family.code}]
    return {"merge_method": method, "base_model": family.base, "models": chosen, "parameters": parameters}


def ask(recipe: dict[str, Any]) -> dict[str, Any]:
    return QUESTIONS["live"](recipe=recipe, prompt="2 + 2", more=8)


def test_it_answers_as_the_written_merge_does(family, tmp_path: Path) -> None:
    for number, scale in enumerate((0.5, 3.0)):
        recipe = content(family, "task_arithmetic", **{"lambda": scale})
        found = ask(recipe)
        merge(load_recipe(recipe), tmp_path / str(number))
        written = QUESTIONS["generate"](model=str(tmp_path / str(number)), prompt="2 + 2", max_new_tokens=8)
        assert found["answer"] == written
        assert found["tensors"] == found["of"] and len(found["next"]) == 5
        assert 1 >= sum(each["probability"] for each in found["next"]) > 0


def test_two_people_who_tune_two_merges_never_mix(family) -> None:
    first, second = content(family, "task_arithmetic", **{"lambda": 0.5}), content(family, "ties", density=0.3)
    alone = [ask(recipe) for recipe in (first, second)]
    for _ in range(2):
        for recipe, expected in zip((first, second), alone, strict=True):
            assert {**ask(recipe), "seconds": 0, "tensors": 0} == {**expected, "seconds": 0, "tensors": 0}


def test_a_run_finds_the_memory_free(family, tmp_path: Path) -> None:
    ask(content(family, "linear"))
    assert _LIVE._live is not None
    OPERATIONS["cosine"]({"base": family.base, "models": [family.math]}, tmp_path, silent)
    assert _LIVE._live is None


def test_what_cannot_follow_says_what_to_do(family, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="finds coefficients by running the models on texts: start the merge"):
        ask(content(family, "sublin", calibration=family.corpus))
    _LIVE.release()
    monkeypatch.setattr(models, "choose_device", lambda: "cpu")
    monkeypatch.setattr(models, "total_memory", lambda: 200_000)
    with pytest.raises(InputError, match=r"these 3 models and their merge take 0\.0 GB, and 0\.0 GB of memory"):
        ask(content(family, "linear"))


def test_an_answer_comes_in_parts_that_make_the_whole(family) -> None:
    whole = QUESTIONS["speak"](model=family.base, prompt="2 + 2", more=12)
    said: list[int] = []
    while len(said) < 12:
        part = QUESTIONS["speak"](model=family.base, prompt="2 + 2", said=said, more=5)
        assert whole["answer"].startswith(part["answer"].rstrip("\ufffd")) or len(part["tokens"]) > 12
        said = part["tokens"]
    assert said[:12] == whole["tokens"]


def test_a_temperature_draws_by_its_seed(family) -> None:
    def drawn(seed: int) -> list[int]:
        manner = {"temperature": 2.0, "seed": seed}
        return QUESTIONS["speak"](model=family.base, prompt="2 + 2", more=12, manner=manner)["tokens"]

    assert drawn(1) == drawn(1) != drawn(2)


def test_without_a_chat_template_there_is_no_chat(family) -> None:
    with pytest.raises(InputError, match=r"base: has no chat template; ask it without one"):
        QUESTIONS["speak"](model=family.base, prompt="2 + 2", manner={"chat": True})
