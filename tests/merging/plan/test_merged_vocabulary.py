"""Fine-tunes with other tokens than their base: rows found by token, and the tokenizer that is written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.checkpoints.token_rows import Fill, map_rows, runs
from nmerge_core.checkpoints.vocabulary import Vocabulary, read_vocabulary
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.registry import methods
from tests.merging import checkpoints
from tests.merging.merged import needed
from tests.merging.plan.grown import EMBEDDING, merged, recipe_of
from tests.merging.test_pipeline import StopAt
from tests.merging.vocabularies import BY_TOKEN, TRAINED, Weights, with_tokens, write_tokenizer


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
        # Fisher information is of rows by position, and of one model alone there is nothing to unite.
        *((name, "union") for name, method in methods().items() if name != "fisher" and method.most != 1),
        *(("ties", "base"), ("ties", "code"), ("linear", "base")),
    ],
)
def test_as_if_all_models_had_the_vocabulary(grown, tmp_path: Path, method: str, tokenizer: str) -> None:
    """The same bytes as merging whole models whose rows were laid out by token before."""
    based = methods()[method].takes_base
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
