"""What holds of every method of the registry, each on the tiny family."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nmerge_core.errors import Cancelled, InputError
from nmerge_core.merging.compute.stream import all_rows
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.registry import methods
from tests.merging import checkpoints
from tests.merging.merged import NEEDED, needed, run
from tests.merging.test_pipeline import StopAt
from tests.tiny import write_corpus

LACKING = {*NEEDED, "fisher", "regmean", "regmean_pp"}  # what cannot merge without coefficients, texts or statistics


@pytest.mark.parametrize("method", methods())
def test_a_dry_run_says_what_the_merge_would(family, tmp_path: Path, method: str) -> None:
    """Where a method lacks data, or what it needs is not as it must be, both say the same and nothing is written."""
    corpus = write_corpus(tmp_path / "corpus", {"general": ["One.", "Two."]})
    wrong: list[dict[str, Any]] = [
        {},
        {"coefficients": {"no such part": [1.0]}},
        {"trim": "model", "density": [0.1, 0.9]},
        {"calibration": corpus, "category": "maths"},
        {"corpus": corpus, "category": "maths"},
        {"neurons": family.neurons, "category": "maths"},
    ]
    if method in ("linear", "fisher", "regmean", "regmean_pp", "multislerp"):
        wrong.append({"weight": 0.0})
    known = {parameter.name for parameter in methods()[method].parameters}
    for parameters in (each for each in wrong if each.keys() <= known):
        if not parameters and method not in LACKING:
            continue
        recipe = {"merge_method": method, "base_model": family.base, "parameters": parameters}
        recipe["models"] = [{"model": model} for model in family.models[: methods()[method].most]]
        told = []
        for work in (estimate, merge):
            with pytest.raises(InputError, match="expected|no category maths") as error:
                work(load_recipe(recipe), tmp_path / "out")
            told.append(str(error.value))
        assert told[0] == told[1]
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


@pytest.mark.parametrize("method", methods())
def test_same_recipe_same_bytes_whatever_the_shards(family, tmp_path: Path, method: str) -> None:
    run(family, tmp_path / "one", method, **needed(family, method))
    sharded = [checkpoints.write(tmp_path / name, weights, shards=3) for name, weights in family.tunes.items()]
    run(family, tmp_path / "two", method, models=sharded, **needed(family, method))
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


@pytest.mark.parametrize("method", methods())
def test_threads_and_visiting_order_change_nothing(
    family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("nmerge_core.machine.cores", lambda: 4)
    monkeypatch.setattr("nmerge_core.merging.compute.stream.BLOCK_ELEMENTS", 32)  # several blocks a tensor
    before = torch.get_num_threads()
    written = {}
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            run(family, tmp_path / str(threads), method, **needed(family, method))
            written[threads] = (tmp_path / str(threads) / "model.safetensors").read_bytes()
    finally:
        torch.set_num_threads(before)
    for module in ("recipe.registry", "plan.context"):
        monkeypatch.setattr(
            f"nmerge_core.merging.{module}.all_rows", lambda stream, names: all_rows(stream, list(names)[::-1])
        )
    run(family, tmp_path / "reversed", method, **needed(family, method))
    written[-1] = (tmp_path / "reversed/model.safetensors").read_bytes()
    assert len(set(written.values())) == 1


@pytest.mark.parametrize("method", methods())
def test_a_stopped_merge_goes_on_where_it_was(family, tmp_path: Path, method: str) -> None:
    recipe = {"merge_method": method, "base_model": family.base, "parameters": needed(family, method)}
    recipe["models"] = checkpoints.entries(method, family.models)
    with pytest.raises(Cancelled):
        merge(load_recipe(recipe), tmp_path / "out", progress=StopAt(20))
    begun: list[float] = []
    merge(
        load_recipe(recipe),
        tmp_path / "out",
        progress=lambda stage, done, total, unit="": begun.append(done) if stage == "Merging" else None,
    )
    assert begun[0] > 0
    run(family, tmp_path / "whole", method, **needed(family, method))
    files = [tmp_path / name / "model.safetensors" for name in ("out", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("method", [name for name, method in methods().items() if method.takes_base])
def test_models_equal_to_the_base_give_the_base(family, tmp_path: Path, method: str) -> None:
    copies = [checkpoints.write(tmp_path / name, family.weights) for name in family.tunes]
    merged = run(family, tmp_path / "out", method, models=copies, **needed(family, method))
    for name, value in merged.items():
        assert torch.equal(value, family.weights[name]), name


@pytest.mark.parametrize("method", methods())
def test_the_written_recipe_gives_the_same_bytes(family, tmp_path: Path, method: str) -> None:
    run(family, tmp_path / "one", method, **needed(family, method))
    merge(load_recipe(tmp_path / "one/nmerge_recipe.yaml"), tmp_path / "two")
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


@pytest.mark.parametrize("method", methods())
def test_bfloat16_is_rounded_once(tmp_path: Path, family, method: str) -> None:
    half = {name: value.bfloat16() for name, value in family.weights.items()}
    tunes = [{name: value.bfloat16() for name, value in tune.items()} for tune in family.tunes.values()]
    root = tmp_path / "half"
    halves = [checkpoints.write(root / name, tune) for name, tune in zip(family.tunes, tunes, strict=True)]
    single = [
        checkpoints.write(tmp_path / "single" / name, {n: v.float() for n, v in tune.items()})
        for name, tune in zip(family.tunes, tunes, strict=True)
    ]
    recipe = {"merge_method": method, "parameters": needed(family, method)}
    for out, base, models in (("h", half, halves), ("s", {n: v.float() for n, v in half.items()}, single)):
        reference = checkpoints.write(tmp_path / out / "base", base)
        merge(
            load_recipe({**recipe, "base_model": reference, "models": checkpoints.entries(method, models)}),
            tmp_path / f"{out}-out",
        )
    exact = load_file(tmp_path / "s-out/model.safetensors")
    for name, value in load_file(tmp_path / "h-out/model.safetensors").items():
        assert torch.equal(value, exact[name].bfloat16()), name


SCALED = {
    (name, parameter.name)
    for name, method in methods().items()
    for parameter in method.parameters
    if method.base == "needed" and not method.inputs and parameter.name in ("weight", "lambda")
}


@pytest.mark.parametrize(("method", "scale"), sorted(SCALED))
def test_a_merge_that_takes_nothing_of_its_models_is_told_of(family, tmp_path: Path, method: str, scale: str) -> None:
    entries = checkpoints.entries(method, family.models)
    recipe = {"merge_method": method, "base_model": family.base, "models": entries, "parameters": {scale: 0.0}}
    report = merge(load_recipe(recipe), tmp_path / "out")
    zero = {"weight": "every weight", "lambda": "λ"}[scale]
    assert f"{zero} is 0: the merge is {family.base}, and nothing of the models is in it" in report.facts["warnings"]
    merged = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(merged[name], tensor) for name, tensor in family.weights.items())
