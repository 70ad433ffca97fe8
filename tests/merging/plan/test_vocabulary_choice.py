"""Which vocabulary a merge has: what a recipe chooses, what is told where it does not, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nmerge_core.checkpoints import inspect_family, open_checkpoint
from nmerge_core.checkpoints.vocabulary import read_vocabulary
from nmerge_core.cli import main
from nmerge_core.errors import InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.recipe.reading import load_recipe
from tests.merging import checkpoints
from tests.merging.plan.grown import EMBEDDING, merged, moved, recipe_of
from tests.merging.test_pipeline import left_in
from tests.merging.vocabularies import TRAINED, with_tokens


def test_without_the_key_other_vocabularies_are_refused(grown, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        merge(recipe_of(grown), tmp_path / "out")
    message = str(error.value)
    assert message.startswith("recipe, key 'tokenizer': missing")
    assert "math: its vocabulary is not the base's: tokens 2 added ('<m>'; '<x>'), 18 embedding rows" in message
    assert "'base' for the base's tokens, 'math' for its own, 'union' for all of them" in message
    assert "code: " in message and "plain" not in message
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([*TRAINED[:2], "c", "b", *TRAINED[4:], None], r"tokens 2 at other ids \('c'; 'b'\)"),
        ([*TRAINED[:15], "<x>", None], r"tokens 1 added \('<x>'\), 1 missing \('o'\)"),  # <x> where the base has o
        ([*TRAINED[:15], None, "o"], r"tokens 1 at other ids \('o'\)"),
    ],
)
def test_as_many_rows_of_other_tokens_are_refused_too(tmp_path: Path, tokens: list[str | None], said: str) -> None:
    base, tune = moved(tmp_path, tokens)
    recipe = {"merge_method": "linear", "models": [{"model": base}, {"model": tune}]}
    with pytest.raises(
        InputError, match=rf"key 'tokenizer': missing(.|\n)*tune: its vocabulary .*{said}; a recipe needs"
    ):
        merge(load_recipe(recipe), tmp_path / "out")
    merge(load_recipe({**recipe, "tokenizer": "base"}), tmp_path / "out")


def test_a_token_on_a_padding_row_is_merged_by_position_and_told(tmp_path: Path) -> None:
    base, tune = moved(tmp_path, [*TRAINED, "<x>"])
    recipe = {"merge_method": "task_arithmetic", "base_model": base, "models": [{"model": tune}]}
    found = merged(load_recipe(recipe), tmp_path / "out")[EMBEDDING]
    torch.testing.assert_close(found, load_file(Path(tune) / "model.safetensors")[EMBEDDING])
    warning = (
        "tune: its vocabulary is not the base's: tokens 1 added ('<x>'); a merge has the base's unless a recipe has"
    )
    (told,) = json.loads((tmp_path / "out/nmerge_report.json").read_text())["facts"]["warnings"]
    assert told.startswith(warning)
    report = inspect_family(base, [tune])
    assert report.mergeable and not report.needs_tokenizer and report.warnings == (told,)
    united = merged(load_recipe({**recipe, "tokenizer": "union"}), tmp_path / "united")[EMBEDDING]
    torch.testing.assert_close(united, found)
    assert "<x>" in read_vocabulary(open_checkpoint(str(tmp_path / "united"))).ids


def test_a_model_without_tokenizer_is_taken_to_have_the_bases(grown, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(grown.models[2], bare)
    (bare / "tokenizer.json").unlink()
    recipe = recipe_of(grown, models=[*grown.models[:2], str(bare)], tokenizer="union")
    merge(recipe, tmp_path / "out")
    merge(recipe_of(grown, tokenizer="union"), tmp_path / "whole")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    shutil.copytree(grown.models[0], tmp_path / "other")  # of more rows
    (tmp_path / "other/tokenizer.json").unlink()
    merge(recipe_of(grown, models=[str(tmp_path / "other")], tokenizer="base"), tmp_path / "as_the_bases")
    weights = [load_file(Path(each) / "model.safetensors") for each in (grown.base, tmp_path / "as_the_bases")]
    assert weights[0].keys() == weights[1].keys()
    assert all(weights[0][name].shape == weights[1][name].shape for name in weights[0])


def test_without_any_tokenizer_there_is_nothing_to_unite(family, tmp_path: Path) -> None:
    recipe = {"merge_method": "ties", "base_model": family.base, "models": [{"model": family.models[0]}]}
    with pytest.raises(InputError, match="base: no tokenizer.json to match tokens by, nor in the other models'"):
        merge(load_recipe({**recipe, "tokenizer": "union"}), tmp_path / "out")
    merge(load_recipe({**recipe, "tokenizer": "base"}), tmp_path / "out")
    merge(load_recipe(recipe), tmp_path / "plain")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "plain/model.safetensors").read_bytes()


def test_a_union_takes_over_no_trained_tokens(tmp_path: Path) -> None:
    base, tune = moved(tmp_path, [*TRAINED, "p", "q"])
    recipe = {"merge_method": "task_arithmetic", "base_model": base, "models": [{"model": tune}]}
    with pytest.raises(InputError, match=r"cannot append 2 tokens of .*tune \('p'; 'q'\) to another tokenizer"):
        merge(load_recipe({**recipe, "tokenizer": "union"}), tmp_path / "out")
    one = {"source": "base", "tokens": {"p": {"source": "tune"}}}
    with pytest.raises(InputError, match=r"cannot append 1 tokens of .*tune \('p'\)"):
        merge(load_recipe({**recipe, "tokenizer": one}), tmp_path / "out")
    assert "'union'" not in " ".join(inspect_family(base, [tune]).warnings)
    found = merged(load_recipe({**recipe, "tokenizer": "tune"}), tmp_path / "out")[EMBEDDING]
    torch.testing.assert_close(found, load_file(Path(tune) / "model.safetensors")[EMBEDDING])


def test_ids_with_gaps_take_no_tokens(tmp_path: Path) -> None:
    base, _ = with_tokens(tmp_path / "base", 0, [*TRAINED[:15], None, None, "o"])
    tune, _ = with_tokens(tmp_path / "tune", 1, [*TRAINED, "<x>"])
    recipe = {"merge_method": "task_arithmetic", "base_model": base, "models": [{"model": tune}], "tokenizer": "union"}
    with pytest.raises(InputError, match="base/tokenizer.json: .*'<x>' to get the id 18, found 16: its ids have gaps"):
        merge(load_recipe(recipe), tmp_path / "out")
    assert "out" not in left_in(tmp_path) and ".out.part" not in left_in(tmp_path)


def test_head_and_embeddings_of_other_sizes(grown, tmp_path: Path) -> None:
    weights = dict(grown.weights["math"])
    weights["lm_head.weight"] = weights["lm_head.weight"][:17].clone()
    shutil.copytree(grown.models[0], tmp_path / "odd")
    odd = checkpoints.write(tmp_path / "odd", weights, vocab_size=18, tie_word_embeddings=False)
    with pytest.raises(
        InputError,
        match=r"does not describe the weights beside it: expected lm_head.weight: \[18, 8\], found \[17, 8\]",
    ):
        merge(recipe_of(grown, models=[odd], tokenizer="union"), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": "bases"}, "expected base, union or one of the recipe's models (b, m, x/n); found 'bases'"),
        ({"tokenizer": 3}, "found 3"),
        ({"tokenizer": "base", "tokenizer_source": "base"}, "found both; leave one out"),
        ({"tokenizer_sorce": "base"}, "unknown key 'tokenizer_sorce'; did you mean 'tokenizer_source'?"),
        (
            {"tokenizer": {"source": "base", "pad_to_multiple_of": 8}},
            "'pad_to_multiple_of' is mergekit's; leave it out",
        ),
        ({"tokenizer": {"tokens": ["<a>"]}}, "tokens: expected {token: {source: …}}, found ['<a>']"),
        ({"tokenizer": {"tokens": {"<a>": "m"}}}, "tokens.<a>: expected {source: …, force: true or false}, found 'm'"),
        ({"tokenizer": {"tokens": {"<a>": {"source": "q"}}}}, "tokens.<a>.source: expected {kind: zero}"),
        ({"tokenizer": {"tokens": {"<a>": {"source": "m", "force": 1}}}}, "tokens.<a>.force: expected true or false"),
        ({"tokenizer": {"tokens": {"<a>": {"source": {"kind": "random"}}}}}, "found {'kind': 'random'}"),
        (
            {"tokenizer": {"tokens": {"<a>": {"source": {"kind": "model_token", "model": "m", "token": 3}}}}},
            "{kind: model_token, model: …, token: …}",
        ),
    ],
)
def test_what_is_wrong_in_the_recipe_is_named(change: dict, message: str) -> None:
    recipe = {"merge_method": "ties", "base_model": "b", "models": [{"model": "m"}, {"model": "x/n"}], **change}
    with pytest.raises(InputError) as error:
        load_recipe(recipe)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"tokenizer_source": "union"}, "union"),
        ({"tokenizer_source": "model:m"}, "m"),
        ({"tokenizer": {"source": "x/n"}}, "x/n"),
        ({"tokenizer": "n"}, "x/n"),
        ({"tokenizer": {}}, "union"),
    ],
)
def test_mergekits_ways_to_write_it(written: dict, read: str) -> None:
    recipe = {"merge_method": "ties", "base_model": "b", "models": [{"model": "m"}, {"model": "x/n"}], **written}
    again = load_recipe(load_recipe(recipe).yaml)
    assert again.tokenizer is not None and again.tokenizer.source == read


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"<q>": {"source": "math"}}, r"tokens.<q>.source': expected a token of .*math, found '<q>', which has no row"),
        ({"<q>": {"source": {"kind": "model_token", "model": "math", "token_id": 18}}}, "found 18, which has no row"),
    ],
)
def test_a_source_without_the_row_is_named(grown, tmp_path: Path, tokens: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        estimate(recipe_of(grown, tokenizer={"source": "base", "tokens": tokens}), tmp_path / "out")


def test_the_command_line_tells_and_merges(grown, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", grown.base, *grown.models]) == 0
    said = capsys.readouterr().err
    assert "warning: math: its vocabulary is not the base's" in said and "plain" not in said
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_of(grown).yaml)
    assert main(["merge", str(recipe), str(tmp_path / "out"), "--dry-run"]) == 2
    assert "key 'tokenizer': missing" in capsys.readouterr().err
    recipe.write_text(recipe_of(grown).yaml + "tokenizer_source: union\n")
    assert main(["merge", str(recipe), str(tmp_path / "out"), "--dry-run"]) == 0
    assert "token rows            20 (3 tokens appended)" in capsys.readouterr().out
    assert main(["merge", str(recipe), str(tmp_path / "out")]) == 0
    facts = json.loads((tmp_path / "out/nmerge_report.json").read_text())["facts"]["vocabulary"]
    # Of 20 rows the base has its 16 tokens and the padding row that is left; code 15 of these tokens, <x> and <c>.
    assert facts == {
        "tokenizer": grown.base,
        "rows": 20,
        "appended": ["<m>", "<x>", "<c>"],
        "rows_found_in": {"base": 17, "math": 18, "code": 17, "plain": 16},
    }


def test_estimate_counts_the_rows_that_are_written(grown, tmp_path: Path) -> None:
    recipe = recipe_of(grown, tokenizer="math")
    found = estimate(recipe, tmp_path / "out")
    merge(recipe, tmp_path / "out")
    assert (found.rows, found.appended) == (18, 0)
    plain = estimate(recipe_of(grown, models=grown.models[2:] * 3), tmp_path / "plain")
    assert found.peak_memory > plain.peak_memory  # as many models, and their tokens
    assert found.bytes_written == (tmp_path / "out/model.safetensors").stat().st_size
