"""Lists of neurons that a family of the cache keeps, the demo family too."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nmerge_core.errors import InputError
from nmerge_core.family import (
    Family,
    Member,
    demo_family,
    families,
    keep_neurons,
    keep_note,
    load_family,
    save_family,
)
from nmerge_core.family.kept import LONGEST_NOTE, MOST_NEURONS, MOST_NOTES


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
        ("math", [(0, 1)], "cannot be called “math”; .* other than attention, code, general, math, mlp, notes, transl"),
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


def test_a_note_is_kept_changed_and_taken_away_and_lists_stay(tmp_path: Path) -> None:
    keep_neurons("demo", "loud", [(3, 17)], tmp_path)
    keep_note("demo", (1, 5), " *digits*\nof years ", tmp_path)
    keep_note("demo", (0, 7), "brackets", tmp_path)
    kept = demo_family(tmp_path)
    assert list(kept.neuron_notes.items()) == [((0, 7), "brackets"), ((1, 5), "*digits*\nof years")]
    keep_note("demo", (1, 5), "numbers", tmp_path, before="*digits*\nof years")
    keep_note("demo", (0, 7), "", tmp_path, before="brackets")
    kept = demo_family(tmp_path)
    assert kept.neuron_notes == {(1, 5): "numbers"} and kept.neurons == {"loud": ((3, 17),)}


def test_of_two_pages_that_write_at_once_nothing_is_lost(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:  # each its own neuron, and all of them one
        list(pool.map(lambda number: keep_note("demo", (0, number), f"note {number}", tmp_path), range(12)))
        list(pool.map(lambda number: keep_note("demo", (1, 0), f"note {number}", tmp_path), range(12)))
    notes = demo_family(tmp_path).neuron_notes
    assert [notes[0, number] for number in range(12)] == [f"note {number}" for number in range(12)]
    assert sorted(notes[1, 0].split("\n\n")) == sorted(f"note {number}" for number in range(12))
    keep_note("demo", (0, 0), "", tmp_path, before="what it was before")  # the other page has written since
    keep_note("demo", (0, 1), "note 1", tmp_path)
    again = demo_family(tmp_path).neuron_notes
    assert (again[0, 0], again[0, 1]) == ("note 0", "note 1")


def test_notes_are_bounded(tmp_path: Path) -> None:
    keep_note("demo", (0, 0), "x" * LONGEST_NOTE, tmp_path)
    with pytest.raises(InputError, match="at most 1,000 characters, and this would have 1,001"):
        keep_note("demo", (0, 1), "x" * (LONGEST_NOTE + 1), tmp_path)
    with pytest.raises(InputError, match="and this would have 1,003"):  # both, and a line between
        keep_note("demo", (0, 0), "y", tmp_path)
    many = {(0, number): "x" for number in range(MOST_NOTES)}
    file = save_family(Family("mine", "b", (Member("m", "m", "m"),), neuron_notes=many), tmp_path / "families")
    with pytest.raises(InputError, match="at most 500 neurons"):
        keep_note("mine", (1, 0), "one more", tmp_path)
    keep_note("mine", (0, 0), "another", tmp_path, before="x")
    assert load_family(file).neuron_notes == {**many, (0, 0): "another"}
    with pytest.raises(InputError, match="no family “gone” any more"):
        keep_note("gone", (0, 0), "x", tmp_path)


def test_nothing_is_kept_that_could_not_be_read_again(tmp_path: Path) -> None:
    keep_note("demo", (0, 0), "digits\x85\u2028😀", tmp_path)
    for note in ("a\0b", "a\ud800b"):
        with pytest.raises(InputError, match="family demo: not readable as YAML"):
            keep_note("demo", (0, 1), note, tmp_path)
    assert demo_family(tmp_path).neuron_notes == {(0, 0): "digits\x85\u2028😀"}
    many = {(0, number): "😀" * 900 for number in range(270)}
    save_family(Family("mine", "b", (Member("m", "m", "m"),), neuron_notes=many), tmp_path / "families")
    with pytest.raises(InputError, match="its file would have 1,0.*bytes, of 1,000,000 at most"):
        for number in range(20):
            keep_note("mine", (1, number), "😀" * LONGEST_NOTE, tmp_path)
    load_family(families(tmp_path)["mine"])
