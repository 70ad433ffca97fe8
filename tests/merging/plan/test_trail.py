"""The trail of a search: what was measured is taken as it is kept, whatever cut the file."""

import fcntl
import io
from dataclasses import replace
from pathlib import Path

import pytest

from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.opened import open_recipe
from nmerge_core.merging.plan.trail import Trail, trail_file, trail_of
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.progress import silent
from tests.tiny_family import make_family

POINTS = [[0.1, float("inf")], [1 / 3, -0.0], [2.0, 5e-324]]


def walked(file: io.BytesIO, points: list[list[float]]) -> tuple[list[list[float]], list[int]]:
    """Go along a trail; return what was measured and the places where it was measured now."""
    trail, now = Trail(file), []

    def measured(place: int) -> list[float]:
        def measure() -> list[float]:
            now.append(place)
            return [sum(points[place])]

        return trail.measured(points[place], measure)

    return [measured(place) for place in range(len(points))], now


def test_a_trail_gives_the_same_numbers_again_and_measures_what_is_missing() -> None:
    file = io.BytesIO()
    first = walked(file, POINTS[:2])
    assert first == ([[float("inf")], [1 / 3]], [0, 1])
    assert walked(file, POINTS) == ([*first[0], [2.0]], [2])
    assert walked(file, POINTS)[1] == []


def test_from_a_line_that_a_kill_cut_it_is_measured_anew() -> None:
    whole = io.BytesIO()
    walked(whole, POINTS)
    lines = whole.getvalue().splitlines(keepends=True)
    for length in range(len(whole.getvalue())):
        file = io.BytesIO(whole.getvalue()[:length])
        kept = sum(length >= len(b"".join(lines[: n + 1])) for n in range(len(lines)))
        assert walked(file, POINTS)[1] == list(range(kept, len(POINTS)))
        assert walked(file, POINTS)[1] == []


def test_other_points_are_measured_from_the_first_that_differs() -> None:
    file = io.BytesIO()
    walked(file, POINTS)
    other = [POINTS[0], [7.0, 7.0], POINTS[2]]
    assert walked(file, other) == ([[float("inf")], [14.0], [2.0]], [1, 2])
    assert walked(file, other)[1] == [] and walked(file, POINTS)[1] == [1, 2]


def test_a_trail_is_of_one_recipe_and_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    family = make_family(tmp_path / "family")
    content = {"merge_method": "lorahub", "base_model": family.base, "models": [{"model": family.math}]}
    recipe = load_recipe(content | {"parameters": {"calibration": family.corpus}})
    context = Context(recipe, open_recipe(recipe, "cpu").stream, (), silent)
    others = [replace(recipe, seed=1), replace(recipe, models=recipe.models * 2)]
    files = [trail_file(replace(context, recipe=each)) for each in (recipe, *others)]
    files.append(trail_file(context.inside("parameters.others", [])))
    assert len(set(files)) == 4
    with trail_of(context) as trail:
        trail.measured([1.0], lambda: [2.0])
        with trail_of(context) as beside, files[0].open() as held:  # of another process, which keeps nothing
            assert beside.measured([1.0], lambda: [3.0]) == [3.0]
            with pytest.raises(BlockingIOError):
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with trail_of(context) as trail:
        assert trail.measured([1.0], lambda: [4.0]) == [2.0]
    (Path(family.corpus) / "math.jsonl").write_text('{"text": "other"}\n')
    assert trail_file(context) != files[0]
