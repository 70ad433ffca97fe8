"""What merges leave of what they measured: it is listed, stays while a merge goes by it, and can be removed."""

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest

from nmerge_core.errors import Cancelled, InputError
from nmerge_core.files.in_use import is_used, remove_unused
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.trail import Trail
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.runs.on_the_way import measured_on_the_way
from tests.tiny import TEXTS, tiny_model, write_corpus


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tuned")
    for seed, name in enumerate(("math", "code"), 1):
        tiny_model(root / name, seed=seed)
    write_corpus(root / "corpus", TEXTS)
    return root


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    return (tmp_path / "cache").resolve()


def recipe_of(tuned: Path, method: str) -> Recipe:
    models = [{"model": str(tuned / name), "parameters": {"category": name}} for name in ("math", "code")]
    parameters = {"corpus": str(tuned / "corpus"), "samples": 3}
    return load_recipe({"merge_method": method, "models": models, "parameters": parameters})


def at(wanted: str, do: Callable[[], object]) -> Callable[..., None]:
    """Return a progress that does something in the second half of a stage."""

    def progress(stage: str, done: float, total: float, unit: str = "") -> None:
        if stage == wanted and done > total / 2:
            do()

    return progress


def test_statistics_are_listed_and_stay_while_a_merge_goes_by_them(tuned: Path, tmp_path: Path, cache: Path) -> None:
    used = set[Path]()

    def look() -> None:
        for each in measured_on_the_way(cache):
            assert is_used(each.path)
            used.add(each.path)

    merge(recipe_of(tuned, "regmean"), tmp_path / "out", progress=at("Merging", look))
    found = measured_on_the_way(cache)
    told = {(each.what, each.of, each.whole) for each in found}
    assert told == {("Gram matrices", "math on math", True), ("Gram matrices", "code on code", True)}
    assert used == {each.path for each in found}
    assert all(each.size > sum(file.stat().st_size for file in each.path.glob("*.safetensors")) for each in found)
    for each in found:
        remove_unused(each.path)
    assert measured_on_the_way(cache) == []


def test_what_a_killed_measurement_left_is_listed_too(tuned: Path, tmp_path: Path, cache: Path) -> None:
    def stop() -> None:
        assert [is_used(each.path) for each in measured_on_the_way(cache)] == [True]
        raise Cancelled

    with pytest.raises(Cancelled):
        merge(recipe_of(tuned, "regmean_pp"), tmp_path / "out", progress=at("Inputs along the merge", stop))
    [left] = measured_on_the_way(cache)
    assert (left.what, left.of, left.whole) == ("Gram matrices along RegMean++", "", False) and left.size > 0
    remove_unused(left.path)
    assert measured_on_the_way(cache) == [] and not any((cache / "statistics").iterdir())


def test_trails_of_searches_are_listed_with_their_points(cache: Path) -> None:
    file = cache / "searches/lorahub-0123456789ab.jsonl"
    file.parent.mkdir(parents=True)
    with file.open("a+b") as kept:
        trail = Trail(kept)
        for point in ([0.5, 0.5], [0.25, 1.0]):
            trail.measured(point, lambda: [1.0])
        fcntl.flock(kept, fcntl.LOCK_EX)  # as a search does
        with pytest.raises(InputError, match="goes by it"):
            remove_unused(file)
    [found] = measured_on_the_way(cache)
    assert (found.what, found.of, found.whole, found.size) == ("Search of LoraHub", "2 points", True, 20 + 21)
    remove_unused(file)
    assert not file.exists()


def test_what_goes_while_it_is_listed_is_left_out(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge gives what it measured its name at any moment."""
    for name in (".gram-1.part", "gram-2"):
        (cache / "statistics" / name).mkdir(parents=True)

    def sized(path: Path, pattern: str) -> list[Path]:
        if path.name.startswith("."):
            path.rename(path.with_name("gram-1"))
        return []

    monkeypatch.setattr(Path, "rglob", sized)
    assert [each.path.name for each in measured_on_the_way(cache)] == ["gram-2"]
