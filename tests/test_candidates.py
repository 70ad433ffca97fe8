import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from nmerge_core import candidates
from nmerge_core.candidates import CandidateLog
from nmerge_core.family import Family, Member, delete_family, rename_family, save_family


def test_candidates_are_numbered_as_they_come_and_a_recipe_has_one_number(tmp_path: Path) -> None:
    log = CandidateLog(tmp_path, "mine")
    assert log.all() == [] and log.get(1) is None
    assert [log.visit(recipe).number for recipe in ("a", "b", "a", "c")] == [1, 2, 1, 3]
    assert [each.recipe for each in CandidateLog(tmp_path, "mine").all()] == ["a", "b", "c"]  # it survives
    assert CandidateLog(tmp_path, "other").visit("a").number == 1


def test_the_candidate_shown_last_is_known_until_it_is_forgotten(tmp_path: Path) -> None:
    log = CandidateLog(tmp_path, "mine")
    assert log.last_shown is None
    for recipe in ("a", "b", "c", "b"):
        log.visit(recipe)
    last = CandidateLog(tmp_path, "mine").last_shown
    assert last is not None and (last.number, last.recipe) == (2, "b")
    log.forget(2)
    assert log.last_shown == log.get(3)  # the newest


def test_what_is_learnt_of_a_candidate_stays_with_it(tmp_path: Path) -> None:
    log = CandidateLog(tmp_path, "mine")
    number = log.visit("a").number
    log.learn(number, "answers", {"2 + 2 =": " 4"})
    log.learn(number, "answers", {"3 + 3 =": " 6"})
    math = {"metric": "acc", "value": 0.5, "low": 0.2, "high": 0.8, "problems": 20}
    log.learn(number, "scores", {"math": math})
    log.change(number, name="good", note="the one", pinned=True)
    [found] = log.all()
    assert found.answers == {"2 + 2 =": " 4", "3 + 3 =": " 6"} and found.scores == {"math": math}
    assert (found.name, found.note, found.pinned, found.cared_for) == ("good", "the one", True, True)
    log.forget(number)
    log.change(number, name="again")  # what is gone stays gone
    assert log.all() == []
    assert log.visit("b").number == number + 1  # a number stands for one merge for ever


def test_pages_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    log = CandidateLog(tmp_path, "mine")
    number = log.visit("a").number

    def learn(page: int) -> None:
        for each in range(20):
            CandidateLog(tmp_path, "mine").learn(number, "answers", {f"{page} {each}": "said"})
            CandidateLog(tmp_path, "mine").visit(f"recipe {each}")

    pages = [Thread(target=learn, args=(page,)) for page in range(4)]
    for page in pages:
        page.start()
    for page in pages:
        page.join()
    assert len(log.all()[0].answers) == 80
    assert sorted(each.recipe for each in log.all()) == sorted(["a", *(f"recipe {each}" for each in range(20))])


def test_the_oldest_that_nobody_cares_for_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "KEPT", 3)
    log = CandidateLog(tmp_path, "mine")
    for recipe in "abcd":
        log.change(log.visit(recipe).number, pinned=recipe == "a")
    log.visit("e")
    assert [each.recipe for each in log.all()] == ["a", "c", "d", "e"]


def test_a_damaged_file_is_left_out_and_its_number_not_given_again(tmp_path: Path) -> None:
    log = CandidateLog(tmp_path, "mine")
    for recipe in "abc":
        log.visit(recipe)
    folder = tmp_path / "candidates" / "mine"
    (folder / "2.json").write_text('{"recipe": 7}')
    (folder / "3.json").write_text("")
    assert [each.recipe for each in log.all()] == ["a"] and log.get(2) is None
    damaged: tuple[Any, ...] = (
        {"t": 3},
        {"t": {}},
        {"t": {"metric": "a", "value": "b", "low": 0, "high": 1, "problems": 1}},
    )
    for scores in damaged:
        (folder / "2.json").write_text(json.dumps({"recipe": "b", "tried": 1.0, "scores": scores}))
        assert log.get(2) is None
    assert log.visit("d").number == 4


def test_prompts_are_kept(tmp_path: Path) -> None:
    log = CandidateLog(tmp_path, "mine")
    assert log.prompts == []
    for prompt in ("one", "two", "one"):
        log.keep_prompt(prompt)
    assert CandidateLog(tmp_path, "mine").prompts == ["one", "two"]
    log.forget_prompt("one")
    assert log.prompts == ["two"]
    for damage in ("[]", '{"prompts": [1, null, {"a": 2}]}'):
        (tmp_path / "candidates" / "mine" / "prompts.json").write_text(damage)
        assert log.prompts == []


def test_the_log_goes_where_its_family_goes(tmp_path: Path) -> None:
    family = Family("mine", str(tmp_path / "b"), (Member(str(tmp_path / "m"), "m"),))
    save_family(family, tmp_path / "families")
    CandidateLog(tmp_path, "mine").visit("a")
    rename_family(family, "yours", tmp_path)
    assert [each.recipe for each in CandidateLog(tmp_path, "yours").all()] == ["a"]
    assert CandidateLog(tmp_path, "mine").all() == []
    delete_family("yours", tmp_path)
    assert CandidateLog(tmp_path, "yours").all() == []
