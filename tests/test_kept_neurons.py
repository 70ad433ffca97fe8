"""Lists of neurons that a family of the cache keeps, the demo family too."""

from pathlib import Path

import pytest

from nmerge_core.errors import InputError
from nmerge_core.family import Family, Member, demo_family, families, keep_neurons, load_family, save_family
from nmerge_core.family.kept import MOST_NEURONS


def test_a_list_is_kept_changed_and_forgotten(tmp_path: Path) -> None:
    file = save_family(Family("mine", "b", (Member("m", "math", "math"),), notes="x"), tmp_path / "families")
    keep_neurons("mine", "loud", [(1, 5), (0, 7), (1, 5)], tmp_path)
    keep_neurons("mine", "quiet", [(0, 1)], tmp_path)
    assert load_family(file).neurons == {"loud": ((0, 7), (1, 5)), "quiet": ((0, 1),)}
    keep_neurons("mine", "loud", [(0, 7)], tmp_path)
    keep_neurons("mine", "quiet", [], tmp_path)
    found = load_family(file)
    assert found.neurons == {"loud": ((0, 7),)} and found.notes == "x"


def test_of_more_than_is_kept_some_are_taken_out(tmp_path: Path) -> None:
    many = tuple((0, number) for number in range(MOST_NEURONS + 2))
    file = save_family(
        Family("mine", "b", (Member("m", "math", "math"),), neurons={"all": many}), tmp_path / "families"
    )
    keep_neurons("mine", "all", many[1:], tmp_path)
    assert load_family(file).neurons["all"] == many[1:]


def test_a_list_that_somebody_called_as_a_category_is_forgotten(tmp_path: Path) -> None:
    family = Family("mine", "b", (Member("m", "math", "math"),), neurons={"math": ((0, 1),)})
    file = save_family(family, tmp_path / "families")
    keep_neurons("mine", "math", [], tmp_path)
    assert not load_family(file).neurons


def test_the_demo_family_keeps_lists_and_is_else_as_it_comes(tmp_path: Path) -> None:
    plain = demo_family(tmp_path)
    keep_neurons("demo", "loud", [(3, 17)], tmp_path)
    kept = demo_family(tmp_path)
    assert kept.neurons == {"loud": ((3, 17),)} and not plain.neurons
    assert Family(**{**vars(kept), "neurons": {}}) == plain and not families(tmp_path)
    (tmp_path / "families" / "demo.yaml").write_text("neurons: [")
    assert demo_family(tmp_path) == plain
    keep_neurons("demo", "soft", [(0, 1)], tmp_path)
    assert demo_family(tmp_path).neurons == {"soft": ((0, 1),)}


@pytest.mark.parametrize(
    ("name", "neurons", "message"),
    [
        ("", [(0, 1)], "cannot be called “”; expected 1 to 60 characters"),
        ("a\nb", [(0, 1)], "expected 1 to 60 characters"),
        ("x" * 61, [(0, 1)], "expected 1 to 60 characters"),
        ("math", [(0, 1)], "cannot be called “math”; .* other than attention, code, general, math, mlp, translation"),
        ("mlp", [(0, 1)], "cannot be called “mlp”"),
        ("all", [(0, number) for number in range(MOST_NEURONS + 1)], "at most 5,000 neurons .* would be 5,001"),
    ],
)
def test_what_cannot_be_a_list_is_said(tmp_path: Path, name: str, neurons: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        keep_neurons("demo", name, neurons, tmp_path)
    assert not demo_family(tmp_path).neurons


def test_a_family_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no family “mine” any more"):
        keep_neurons("mine", "loud", [(0, 1)], tmp_path)


def test_the_most_that_is_kept_reads_back(tmp_path: Path) -> None:
    keep_neurons("demo", "all", [(number // 500, number % 500) for number in range(MOST_NEURONS)], tmp_path)
    assert len(demo_family(tmp_path).neurons["all"]) == MOST_NEURONS
