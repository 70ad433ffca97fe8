"""Fine-tunes with other tokens than their base: rows found by token, the tokenizer that is written, what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nmerge_core.checkpoints import inspect_family, open_checkpoint
from nmerge_core.checkpoints.token_rows import Fill, map_rows, runs
from nmerge_core.checkpoints.vocabulary import Vocabulary, read_vocabulary
from nmerge_core.cli import main
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.registry import methods
from tests.merging import checkpoints
from tests.merging.test_methods import needed
from tests.merging.test_pipeline import StopAt, left_in
from tests.merging.vocabularies import BY_TOKEN, TRAINED, Weights, make_family, with_tokens, write_tokenizer

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory):
    return make_family(tmp_path_factory.mktemp("grown"))


def recipe_of(grown, method: str = "task_arithmetic", models: list[str] | None = None, **more: object) -> Recipe:
    entries = [{"model": model} for model in (models or grown.models)]
    return load_recipe({"merge_method": method, "base_model": grown.base, "models": entries, **more})


def merged(recipe: Recipe, out: Path) -> Weights:
    merge(recipe, out)
    return load_file(out / "model.safetensors")


def vocabulary(rows: int, **ids: int) -> Vocabulary:
    return Vocabulary(ids, {}, rows)


def test_rows_are_found_by_token() -> None:
    base = vocabulary(4, a=0, b=1, c=2)  # row 3 is padding
    tune = vocabulary(3, b=0, a=1, x=2)
    found = map_rows([base, tune], 0, ["x"])
    assert found is not None
    # The output: a, b, c, and x in the padding's place.
    assert found.sources.tolist() == [[0, 1, 2, -1], [1, 0, -1, 2]] and not found.fills
    theirs = map_rows([base, tune], 1)
    assert theirs is not None and theirs.sources.tolist() == [[1, 0, -1], [0, 1, 2]]
    padded = map_rows([base, tune], 0)
    assert padded is not None and padded.sources.tolist() == [[0, 1, 2, 3], [1, 0, -1, -1]]


def test_nothing_is_matched_where_all_agree() -> None:
    base = vocabulary(4, a=0, b=1)
    assert map_rows([base, vocabulary(4, b=1, a=0), vocabulary(4, a=0, b=1, c=9)], 0) is None  # c has no row
    assert map_rows([base, vocabulary(5, a=0, b=1)], 0) is not None


def test_filled_and_rowless_tokens() -> None:
    base, tune = vocabulary(2, a=0, b=1, far=4), vocabulary(3, a=0, x=2)
    with pytest.raises(InputError, match="a row of every token in some model, found none for 'far'"):
        map_rows([base, tune], 0, ["x"])
    found = map_rows([base, tune], 0, ["x"], {"far": Fill(None), "x": Fill((1, 0), force=True)})
    assert found is not None
    # Rows: a, b, two that no token names, far, x; the last from the fine-tune's row 0 in every model.
    assert found.sources.tolist() == [[0, 1, -1, -1, -1, -1], [0, -1, -1, -1, -1, -1]]
    assert found.fills == {2: None, 3: None, 4: None, 5: (1, 0)}
    alone = map_rows([base, tune], 0, (), {"far": Fill(None, force=True)})
    assert alone is not None and (alone.rows, alone.fills) == (5, {2: None, 3: None, 4: None})


def test_runs_of_consecutive_rows() -> None:
    assert runs(np.array([4, 5, 6, -1, -1, 0, 1, 9])) == [(4, 3), (-1, 2), (0, 2), (9, 1)]
    assert runs(np.array([-1, 0])) == [(-1, 1), (0, 1)]


def naive_rows(grown, tokens: list[str | None], source: str, names: list[str], based: bool) -> dict[str, Weights]:
    """Every model's tensors laid out whole by token: its own row, else the base's, else the mean of those with one."""
    aligned = {name: dict(grown.weights[name]) for name in names}
    for tensor in BY_TOKEN:
        rows: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        for place, token in enumerate(tokens):
            own = {
                name: grown.weights[name][tensor][grown.tokens[name].index(token)]
                for name in names
                if token in grown.tokens[name]
            }
            if token is None:
                own = {source: grown.weights[source][tensor][place]}
            absent = own["base"] if based and "base" in own else sum(own.values()) / len(own)
            for name in names:
                rows[name].append(own.get(name, absent))
        for name in names:
            aligned[name][tensor] = torch.stack(rows[name])
    return aligned


UNITED = [*TRAINED, "<m>", "<x>", "<c>", None]


@pytest.mark.parametrize(
    ("method", "tokenizer"),
    [
        *((method, "union") for method in methods() if method != "fisher"),  # that is of rows by position
        *(("ties", "base"), ("ties", "code"), ("linear", "base")),
    ],
)
def test_as_if_all_models_had_the_vocabulary(grown, tmp_path: Path, method: str, tokenizer: str) -> None:
    """The same bytes as merging whole models whose rows were laid out by token before."""
    based = methods()[method].needs_base
    names = [*(["base"] if based else []), "math", "code", "plain"]
    source = tokenizer if tokenizer in grown.tokens else names[0]
    if tokenizer == "union":
        # Without a base math is the first: its two tokens have their places, and there is no padding to fill.
        tokens = UNITED if based else [*grown.tokens["math"], "<c>"]
    else:
        tokens = grown.tokens[source if based else "math"]
    if tokenizer == "base":
        source = names[0]
    aligned = naive_rows(grown, tokens, source, names, based)
    written = {
        name: checkpoints.write(tmp_path / name, weights, vocab_size=len(tokens), tie_word_embeddings=False)
        for name, weights in aligned.items()
    }
    parameters = needed(grown, method)
    if method == "adamerging":
        parameters["coefficients"] = {**parameters["coefficients"], "head": [0.5, 0.25, 0.125]}
    shared = {"merge_method": method, "parameters": parameters}
    expected = {**shared, "models": checkpoints.entries(method, [written[name] for name in names if name != "base"])}
    found = {**shared, "models": checkpoints.entries(method, grown.models), "tokenizer": tokenizer}
    if based:
        expected["base_model"], found["base_model"] = written["base"], grown.base
    merge(load_recipe(expected), tmp_path / "expected")
    merge(load_recipe(found), tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "expected/model.safetensors").read_bytes()
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == len(tokens)
    ids = read_vocabulary(open_checkpoint(str(tmp_path / "out"))).ids
    assert ids == {token: place for place, token in enumerate(tokens) if token}


def test_a_row_by_hand(grown, tmp_path: Path) -> None:
    found = merged(recipe_of(grown, tokenizer="union", parameters={"weight": 0.5}), tmp_path / "out")[EMBEDDING]
    rows = {name: weights[EMBEDDING] for name, weights in grown.weights.items()}
    # <m> is math's alone, row 16 there: whatever the weight, it stays what it was.
    torch.testing.assert_close(found[16], rows["math"][16], atol=0, rtol=0)
    # <x> is row 17 in math and 15 in code: their mean, and deltas of ±half their difference, which cancel.
    torch.testing.assert_close(found[17], (rows["math"][17] + rows["code"][15]) / 2)
    # n is row 14 but in code, which lacks it and is counted as agreeing with the base.
    n = rows["base"][14] + 0.5 * (rows["math"][14] - rows["base"][14]) + 0.5 * (rows["plain"][14] - rows["base"][14])
    torch.testing.assert_close(found[14], n)
    # a is row 1, in code row 14.
    a = rows["base"][1] + 0.5 * sum(r - rows["base"][1] for r in (rows["math"][1], rows["code"][14], rows["plain"][1]))
    torch.testing.assert_close(found[1], a)
    # The last padding row of the base, which no appended token took.
    assert torch.equal(found[19], rows["base"][19])


@pytest.mark.parametrize("tokenizer", ["base", "union", "two"])
def test_agreeing_vocabularies_merge_to_the_same_bytes(tmp_path: Path, tokenizer: str) -> None:
    base, one, two = (
        with_tokens(tmp_path / name, seed, [*TRAINED, None, None])[0]
        for seed, name in enumerate(("base", "one", "two"))
    )
    recipe = {"merge_method": "ties", "base_model": base, "models": [{"model": one}, {"model": two}]}
    merge(load_recipe(recipe), tmp_path / "plain")
    merge(load_recipe({**recipe, "tokenizer": tokenizer}), tmp_path / "out")
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()


@pytest.mark.parametrize("elements", [8, 40, 1 << 17])
def test_blocks_do_not_show(grown, tmp_path: Path, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    merge(recipe_of(grown, "ties", tokenizer="union"), tmp_path / "whole")
    monkeypatch.setattr("nmerge_core.merging.compute.stream.BLOCK_ELEMENTS", elements)
    merge(recipe_of(grown, "ties", tokenizer="union"), tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_the_written_recipe_makes_everything_again(grown, tmp_path: Path) -> None:
    tokens = {"<x>": {"source": grown.models[1], "force": True}, "<new>": {"source": {"kind": "zero"}}}
    tokens["<alias>"] = {"source": {"kind": "model_token", "model": "math", "token": "a"}}
    merge(recipe_of(grown, tokenizer={"source": "union", "tokens": tokens}), tmp_path / "one")
    merge(load_recipe(tmp_path / "one/nmerge_recipe.yaml"), tmp_path / "two")
    for file in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json", "nmerge_recipe.yaml"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("force", [False, True])
def test_rows_of_single_tokens(grown, tmp_path: Path, force: bool) -> None:
    tokens = {
        "<x>": {"source": grown.models[1], "force": force},
        "<m>": {"source": {"kind": "zero"}, "force": force},
        "n": {"source": {"kind": "model_token", "model": "math", "token_id": 3}, "force": force},
        "<new>": {"source": {"kind": "model_token", "model": "code", "token": "<c>"}, "force": force},
    }
    recipe = recipe_of(grown, tokenizer={"source": "base", "tokens": tokens})
    found = merged(recipe, tmp_path / "out")[EMBEDDING]
    rows = {name: weights[EMBEDDING] for name, weights in grown.weights.items()}
    base, code, math, plain = rows["base"], rows["code"], rows["math"], rows["plain"]
    ids = read_vocabulary(open_checkpoint(str(tmp_path / "out"))).ids
    assert [ids[token] for token in ("<x>", "<m>", "n", "<new>")] == [16, 17, 14, 18]
    if force:
        expected = {16: code[15], 17: torch.zeros(8), 14: math[3], 18: code[16]}
    else:
        # What models without the token hold instead: code's <x>, zeros for <m>, math's row 3 for n (which code lacks).
        expected = {16: code[15] + (math[17] - code[15]), 17: math[16], 18: code[16]}
        expected[14] = base[14] + (math[14] - base[14]) + (math[3] - base[14]) + (plain[14] - base[14])
    for row, value in expected.items():
        torch.testing.assert_close(found[row], value)


def test_a_stopped_merge_goes_on_only_with_the_same_rows(grown, tmp_path: Path) -> None:
    recipe = recipe_of(grown, tokenizer="union")
    merge(recipe, tmp_path / "whole")
    with pytest.raises(Cancelled):
        merge(recipe, tmp_path / "out", progress=StopAt(20))
    seen: list[float] = []
    merge(recipe, tmp_path / "out", progress=lambda stage, done, total, unit="": seen.append(done))
    assert seen[0] > 0
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    code = tmp_path / "code"
    shutil.copytree(grown.models[1], code)
    moving = recipe_of(grown, models=[grown.models[0], str(code)], tokenizer="union")
    with pytest.raises(Cancelled):
        merge(moving, tmp_path / "moved", progress=StopAt(20))
    # The same weights and recipe, but the tokens of rows 15 and 16 have changed places.
    tokens = list(grown.tokens["code"])
    tokens[15:17] = ["<c>", "<x>"]
    write_tokenizer(code, tokens)
    seen.clear()
    merge(moving, tmp_path / "moved", progress=lambda stage, done, total, unit="": seen.append(done))
    assert seen[0] == 0


def test_without_the_key_other_vocabularies_are_refused(grown, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        merge(recipe_of(grown), tmp_path / "out")
    message = str(error.value)
    assert message.startswith("recipe, key 'tokenizer': missing")
    assert "math: its vocabulary is not the base's: tokens 2 added ('<m>'; '<x>'), 18 embedding rows" in message
    assert "'base' for the base's tokens, 'math' for its own, 'union' for all of them" in message
    assert "code: " in message and "plain" not in message
    assert left_in(tmp_path) == []


def moved(tmp_path: Path, tokens: list[str | None]) -> tuple[str, str]:
    base, _ = with_tokens(tmp_path / "base", 0, [*TRAINED, None])
    return base, with_tokens(tmp_path / "tune", 1, tokens)[0]


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
    shutil.copytree(grown.models[0], tmp_path / "other")
    (tmp_path / "other/tokenizer.json").unlink()
    with pytest.raises(
        InputError, match="embed_tokens.weight: expected .*by their tokens: .*other has no tokenizer.json"
    ):
        merge(recipe_of(grown, models=[str(tmp_path / "other")], tokenizer="base"), tmp_path / "none")


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
        InputError, match="expected as many rows in the head as in the embeddings, found .*: 18; .*: 17"
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
            "unknown key 'pad_to_multiple_of'; known keys: source",
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


def test_a_base_that_is_only_named_gives_the_tokenizer(grown, tmp_path: Path) -> None:
    tokens = grown.tokens["base"]
    aligned = naive_rows(grown, tokens, "base", ["base", "math", "code", "plain"], True)
    merge(recipe_of(grown, "linear", tokenizer="base"), tmp_path / "out")
    merged = load_file(tmp_path / "out/model.safetensors")
    for tensor in BY_TOKEN:
        mean = sum(aligned[name][tensor] for name in ("math", "code", "plain")) / 3
        torch.testing.assert_close(merged[tensor], mean)
    assert read_vocabulary(open_checkpoint(str(tmp_path / "out"))).ids == {
        token: place for place, token in enumerate(tokens) if token
    }


def test_fisher_information_is_of_rows_by_position(grown, tmp_path: Path) -> None:
    recipe = {"merge_method": "fisher", "models": checkpoints.entries("fisher", grown.models), "tokenizer": "union"}
    with pytest.raises(InputError, match="expected models of one vocabulary"):
        merge(load_recipe(recipe), tmp_path / "out")


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
