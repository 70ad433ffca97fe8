"""The question that a page asks of a merge in memory."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nmerge_core.answers import Manner, _Drawn, forget, go_on, prompt_tokens
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.loading import load_model
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.runs import memory, models
from nmerge_core.runs.held import LIVE, MODELS, spare
from nmerge_core.runs.operations import OPERATIONS
from nmerge_core.runs.questions import Superseded
from nmerge_core.runs.short_questions import QUESTIONS
from tests.runs.conftest import nobody_waits
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


def test_only_a_run_that_does_not_fit_beside_it_ends_a_live_merge_which_comes_back(
    family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cosine() -> None:
        OPERATIONS["cosine"](
            {"base": family.base, "models": [family.math]}, tmp_path, lambda *_: during.append(asked())
        )

    def asked() -> str:
        try:
            return ask(recipe)["reread"]
        except InputError as error:
            return str(error)

    monkeypatch.setattr(memory, "choose_device", lambda *_: "cpu")
    recipe, during = content(family, "linear"), list[str]()
    ask(recipe)
    loaded = MODELS.get(family.base)
    cosine()
    assert {*during} == {""} and MODELS.get(family.base) is loaded  # all is held as before
    monkeypatch.setattr(memory, "available_memory", lambda: 100_000)  # less than the run takes
    during.clear()
    cosine()
    expected = "a run is going, and these 3 models and their merge take 0.0 GB, of which it leaves 0.0 GB free; "
    assert {each.removesuffix("answers follow the controls again when it has ended") for each in during} == {expected}
    LIVE.follow(recipe)  # as another question does
    assert asked() == "The models were read again: a run needed the memory."
    assert MODELS.get(family.base) is not loaded
    assert asked() == ""


def test_what_a_run_takes_is_told_by_its_kind(family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "choose_device", lambda name="auto": "cpu" if name == "auto" else name)
    base = open_checkpoint(family.base)
    rows = base.info("model.embed_tokens.weight").rows
    model = base.parameters * 4 * 3 // 2 + 2048 * rows * 4  # weights in float32 and half as much, and texts' logits
    shared = {"device": "auto", "run_dtype": "float32"}
    for kind in ("classify", "knockout"):
        assert memory.memory_needed(kind, {"model": family.base, **shared}) == model
    assert memory.memory_needed("evaluate", {"models": [family.base, family.math], **shared}) == model
    assert memory.memory_needed("cosine", {"base": family.base, "models": [family.math]}) == model
    monkeypatch.setattr(memory, "_LAYERS", 2000)
    assert memory.memory_needed("classify", {"model": family.base, "layerwise": True, **shared}) == 2000
    monkeypatch.setitem(memory._AT_MOST, "cosine", 1000)
    assert memory.memory_needed("cosine", {"base": family.base, "models": [family.math]}) == 1000
    elsewhere = {"models": [family.base], **shared, "device": "cuda"}  # whose memory is another
    assert memory.memory_needed("evaluate", elsewhere) == 0
    merging: dict[str, Any] = {"recipe": content(family, "linear"), "device": "auto"}
    assert memory.memory_needed("merge", merging) == estimate(load_recipe(merging["recipe"]), Path()).peak_memory
    assert memory.memory_needed("sweep", {"sweep": {}}) > 1 << 50  # which nobody knows


def test_what_nobody_asks_about_is_freed_and_a_change_of_families_is_told(
    family, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = content(family, "linear")
    other = {**recipe, "models": recipe["models"][:1]}
    assert [ask(each)["reread"] for each in (recipe, recipe)][1] == ""
    loaded = MODELS.get(family.base)
    spare()
    assert LIVE._live is not None and MODELS.get(family.base) is loaded
    ask(other)
    assert ask(recipe)["reread"] == "The models were read again: other models were merged meanwhile."
    monkeypatch.setattr(models, "KEPT_SECONDS", 0.0)
    spare()
    assert LIVE._live is None and MODELS.get(family.base) is not loaded
    assert ask(recipe)["reread"] == "The models were read again: nobody had asked for 0 minutes."


def test_a_merge_that_nobody_waits_for_is_left_and_the_next_is_whole(family) -> None:
    recipe = content(family, "task_arithmetic", **{"lambda": 0.5})
    expected = ask(recipe)
    ask(content(family, "linear"))
    with nobody_waits(), pytest.raises(Superseded):
        ask(content(family, "task_arithmetic", **{"lambda": 2.5}))
    assert {**ask(recipe), "seconds": 0, "tensors": 0} == {**expected, "seconds": 0, "tensors": 0}


def test_what_cannot_follow_says_what_to_do(family, monkeypatch: pytest.MonkeyPatch) -> None:
    LIVE.release()
    monkeypatch.setattr(models, "choose_device", lambda: "cpu")
    monkeypatch.setattr(models, "total_memory", lambda: 20_000)
    with pytest.raises(InputError, match=r"a merge of these 3 models takes 0\.0 GB, and 0\.0 GB of memory"):
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


def test_what_was_said_is_not_read_again_for_the_next_part_unless_the_weights_changed(family) -> None:
    """Read again, rounding may make another answer of it: 1 of 24 in bfloat16, seen on the demo family."""
    asked, read = load_model(family.base), list[int]()
    prompt, said = prompt_tokens(asked, "2 + 2 ="), tuple[int, ...]()
    asked.model.model.register_forward_pre_hook(
        lambda module, _, named: read.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    for more in (1, 2, 3):
        said = go_on(asked, prompt, said, more, Manner()).tokens
    assert read == [len(prompt), 1, 1, 1, 1, 1] and len(said) == 6
    forget(asked.model)
    assert go_on(asked, prompt, said, 1, Manner()).tokens[:6] == said and read[6:] == [len(prompt) + 6]


def test_what_is_drawn_does_not_depend_on_the_parts_it_is_said_in(family) -> None:
    asked = {"model": family.base, "prompt": "2 + 2", "manner": {"temperature": 2.0, "seed": 1}}
    whole, said = QUESTIONS["speak"](**asked, more=12)["tokens"], list[int]()
    for more in (1, 4, 7):
        said = QUESTIONS["speak"](**asked, said=said, more=more)["tokens"]
    assert said == whole


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    """By logits ln 1, ln 9 at temperature 2 the second has √9 / (√1 + √9) = 3 / 4 of all draws."""
    logits, drawn = torch.tensor([[1.0, 9.0]]).log(), 0
    for seed in range(4000):
        drawn += int(_Drawn(Manner(temperature=2.0, seed=seed), 0)(torch.zeros(1, 3), logits).argmax())
    assert abs(drawn / 4000 - 0.75) < 0.025  # 3.7 standard errors


def test_without_a_chat_template_there_is_no_chat(family) -> None:
    with pytest.raises(InputError, match=r"base: has no chat template; ask it without one"):
        QUESTIONS["speak"](model=family.base, prompt="2 + 2", manner={"chat": True})


def test_a_family_without_room_stays_in_its_files(family, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = content(family, "ties", density=0.3)
    LIVE.release()
    held = ask(recipe)
    assert LIVE._live is not None and LIVE._live[1].family.bytes > 0
    LIVE.release()
    size = sum(open_checkpoint(each).bytes for each in (family.base, family.math, family.code))
    monkeypatch.setattr(models, "choose_device", lambda: "cpu")
    monkeypatch.setattr(models, "total_memory", lambda: 2 * size)
    read = ask(recipe)
    assert LIVE._live is not None and LIVE._live[1].family.bytes == 0
    assert read | {"seconds": 0} == held | {"seconds": 0}
    LIVE.release()


@pytest.mark.parametrize(
    ("device", "memory", "place"),
    [(4.0, 0.1, "device"), (2.0, 6.0, "memory"), (2.0, 5.9, "files"), (0.0, 8.0, "device"), (0.0, 7.9, "files")],
)
def test_weights_are_held_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, device: float, memory: float, place: str
) -> None:
    """Three models of 1 GB and their merge: half of what is free may be taken; a device of 0 GB is none."""
    monkeypatch.setattr(models, "choose_device", lambda: "cuda" if device else "cpu")
    monkeypatch.setattr(models, "total_memory", lambda: int(memory * 1e9))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(2 * device * 1e9), 0))
    assert models._choose_place(int(3e9), 3, None) == place
