"""A few seconds of what `python -m tests.fuzz` does for as long as one likes."""

from random import Random

import pytest

from tests.fuzz import files, recipes
from tests.tiny_family import make_family


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


@pytest.mark.parametrize(("one", "cases"), [(recipes.one, 30), (files.one, 30)], ids=["recipes", "files"])
def test_damaged_inputs_end_in_an_output_or_in_one_line(one, cases, family, tmp_path, recwarn):
    found = [one(family, tmp_path, Random(f"0 {case}"))[1] for case in range(cases)]
    assert [f"{case}: {outcome.fault}" for case, outcome in enumerate(found) if outcome.fault] == []
    statuses = [outcome.status for outcome in found]
    assert 0 < statuses.count(0) < cases / 2  # neither all let through nor all refused


def test_what_ends_badly_is_a_fault():
    from tests.fuzz.outcome import command, watched

    def crash():
        raise IndexError("list index out of range")

    assert "IndexError" in watched(crash).fault
    assert command("inspect", "nowhere").fault == "" and command("inspect", "nowhere").status == 2
    assert "expected one line" in watched(lambda: 2).fault
