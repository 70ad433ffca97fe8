"""Statistics against plain loops over whole models, and what a folder of them is."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from nmerge_core.calibration import collect, open_statistics
from nmerge_core.calibration.collect import cached
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.files.folders import write_meta
from nmerge_core.progress import silent
from tests.tiny import LAYERS, TEXTS, tiny_model, write_corpus

CATEGORIES = ["math", "code"]


def load(model: str) -> tuple[nn.Module, list[Tensor]]:
    """The whole model, and the tokens of every text of the categories, (1, T) each."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [text for category in CATEGORIES for text in TEXTS[category]]
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    return whole, [tokenizer(text, return_tensors="pt").input_ids for text in texts]


def stored(folder: Path) -> dict[str, Tensor]:
    files = json.loads((folder / "meta.json").read_text())["files"]
    return {name: value for file in files for name, value in load_file(folder / file).items()}


def naive_fisher(model: str) -> dict[str, Tensor]:
    whole, texts = load(model)
    sums = {name: torch.zeros_like(weight) for name, weight in whole.named_parameters()}
    used = [tokens for tokens in texts if tokens.shape[1] > 1]
    for tokens in used:
        whole.zero_grad()
        log_p = whole(tokens, use_cache=False).logits.log_softmax(-1)  # (1, T, vocabulary)
        sum(log_p[0, t, tokens[0, t + 1]] for t in range(tokens.shape[1] - 1)).backward()
        for name, weight in whole.named_parameters():
            sums[name] += weight.grad**2
    return {name: total / len(used) for name, total in sums.items()}


def naive_grams(model: str) -> dict[str, Tensor]:
    whole, texts = load(model)
    grams: dict[str, Tensor] = {}

    def add(name: str, module: nn.Module, args: tuple[Tensor]) -> None:
        x = args[0][0].double()  # (T, inputs)
        grams[name] = grams.get(name, 0) + x.T @ x

    for name, module in whole.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda module, args, name=name: add(f"{name}.weight", module, args))
    with torch.no_grad():
        for tokens in texts:
            whole(tokens, use_cache=False)
    return grams


def test_fisher_equals_autograd_over_the_whole_model(
    model: str, corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect(model, corpus, "fisher", tmp_path / "out", categories=CATEGORIES)
    monkeypatch.setattr("nmerge_core.calibration.fisher._WHOLE_BYTES", 0)  # layer by layer
    collect(model, corpus, "fisher", tmp_path / "layers", categories=CATEGORIES)
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "layers/model.safetensors").read_bytes()
    found, expected = stored(tmp_path / "out"), naive_fisher(model)
    assert found.keys() == expected.keys() == open_checkpoint(model).tensors.keys()
    for name, value in expected.items():
        assert value.abs().max() > 0, name
        torch.testing.assert_close(found[name], value, rtol=2e-4, atol=1e-5 * value.max().item(), msg=name)


def test_fisher_in_groups_of_texts_has_the_same_bytes(qwen2: str, corpus: str, tmp_path: Path, monkeypatch) -> None:
    collect(qwen2, corpus, "fisher", tmp_path / "one", categories=CATEGORIES)
    monkeypatch.setattr("nmerge_core.calibration.fisher._WHOLE_BYTES", 0)
    monkeypatch.setattr("nmerge_core.calibration.fisher._STATES_BYTES", 4 * 32 * (LAYERS + 1) * 40)  # 40 tokens
    collect(qwen2, corpus, "fisher", tmp_path / "many", categories=CATEGORIES)
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "many/model.safetensors").read_bytes()


def test_grams_equal_hooks_on_the_whole_model(
    model: str, corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmerge_core.calibration.inputs._COLUMNS", 12)  # of 32 and more
    collect(model, corpus, "gram", tmp_path / "out", categories=CATEGORIES)
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    found, expected = stored(tmp_path / "out"), naive_grams(model)
    if "lm_head.weight" not in open_checkpoint(model).tensors:
        expected.pop("lm_head.weight", None)
    assert meta["grams"].keys() == expected.keys()
    for name, value in expected.items():
        own = found[meta["grams"][name]]
        torch.testing.assert_close(own, value.float(), rtol=1e-4, atol=1e-6 * value.abs().max().item(), msg=name)
    # q, k and v share one matrix, gate and up another.
    assert len(found) == LAYERS * 4 + ("lm_head.weight" in expected)
    _, texts = load(model)
    assert meta["tokens"] == sum(tokens.shape[1] for tokens in texts) and meta["texts"] == len(texts)
    assert meta["corpus_fingerprint"] == load_corpus(corpus, CATEGORIES).fingerprint


def test_magnitudes_equal_hooks_on_the_whole_model(qwen2: str, corpus: str, tmp_path: Path) -> None:
    """Σ |x| over the tokens of what a linear layer reads, by hand from hooks on the whole model."""
    collect(qwen2, corpus, "magnitude", tmp_path / "out", categories=CATEGORIES)
    whole, texts = load(qwen2)
    expected: dict[str, Tensor] = {}

    def add(name: str, args: tuple[Tensor]) -> None:
        expected[name] = expected.get(name, 0) + args[0][0].double().abs().sum(0)

    for name, module in whole.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda module, args, name=name: add(f"{name}.weight", args))
    with torch.no_grad():
        for tokens in texts:
            whole(tokens, use_cache=False)
    opened = open_statistics(tmp_path / "out", "magnitude", open_checkpoint(qwen2))
    for name, own in opened.of_weights.items():
        torch.testing.assert_close(opened.tensors.read(own), expected[name].float(), rtol=1e-4, atol=1e-5, msg=name)
    assert len(opened.of_weights) == LAYERS * 7


def test_a_text_of_one_token_predicts_nothing(qwen2: str, tmp_path: Path) -> None:
    short = write_corpus(tmp_path / "short", {"general": ["a", "b"], "math": ["7", "8"]})
    with pytest.raises(InputError, match="expected texts of at least two tokens, found none"):
        collect(qwen2, short, "fisher", tmp_path / "out")
    collect(qwen2, short, "gram", tmp_path / "out")


@pytest.mark.parametrize("kind", ["fisher", "gram"])
def test_the_folder_appears_only_when_it_is_complete(qwen2: str, corpus: str, tmp_path: Path, kind: str) -> None:
    def stop(stage: str, done: float, total: float, unit: str = "") -> None:
        assert not (tmp_path / "out").exists()
        if done > total / 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        collect(qwen2, corpus, kind, tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == []
    seen: list[tuple[float, float]] = []
    collect(
        qwen2, corpus, kind, tmp_path / "out", progress=lambda stage, done, total, unit="": seen.append((done, total))
    )
    assert seen[0][0] == 0 and seen[-1][0] == seen[-1][1] and len({total for _, total in seen}) == 1
    with pytest.raises(InputError, match="out: exists already"):
        collect(qwen2, corpus, kind, tmp_path / "out")


def test_a_folder_of_another_model_or_kind_is_refused(qwen2: str, corpus: str, tmp_path: Path) -> None:
    collect(qwen2, corpus, "gram", tmp_path / "out", categories=["math"], samples=2)
    opened = open_statistics(tmp_path / "out", "gram", open_checkpoint(qwen2))
    assert opened.meta["categories"] == ["math"] and opened.meta["texts"] == 2
    with pytest.raises(InputError, match="out: expected statistics of kind fisher, found gram"):
        open_statistics(tmp_path / "out", "fisher", open_checkpoint(qwen2))
    other = open_checkpoint(tiny_model(tmp_path / "other", seed=1))
    with pytest.raises(InputError, match=r"out: expected statistics of .*other \(.*\), found those of .*math"):
        open_statistics(tmp_path / "out", "gram", other)
    with pytest.raises(InputError, match="expected a folder written by `statistics MODEL --kind gram"):
        open_statistics(tmp_path / "nowhere", "gram", other)
    file = tmp_path / "out/layer-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"layer-00001.safetensors: truncated"):
        open_statistics(tmp_path / "out", "gram", open_checkpoint(qwen2))


def test_a_model_that_transformers_builds_otherwise_is_named(qwen2: str, corpus: str, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(qwen2, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 4}))
    with pytest.raises(InputError, match=r"odd: expected tensor model.layers.0.self_attn.k_proj.weight of shape"):
        collect(str(folder), corpus, "gram", tmp_path / "out")


def test_a_model_without_tokenizer_is_refused(qwen2: str, corpus: str, tmp_path: Path) -> None:
    shutil.copytree(qwen2, tmp_path / "model")
    for file in (tmp_path / "model").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="tokenizer"):
        collect(str(tmp_path / "model"), corpus, "gram", tmp_path / "out", categories=CATEGORIES)


def test_a_model_that_is_no_language_model_is_refused(qwen2: str, corpus: str, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(qwen2, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises(InputError, match="odd: expected a causal language model, found model type 'vit'"):
        collect(str(folder), corpus, "gram", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["fisher", "gram"])
def test_weights_that_are_not_finite_are_named(qwen2: str, corpus: str, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(qwen2, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3] = float("inf")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"odd, tensor model.layers.1.*: expected finite"):
        collect(str(folder), corpus, kind, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_cache_collects_once(qwen2: str, corpus: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path))
    model = open_checkpoint(qwen2)
    asked: dict[str, Any] = {"samples": 2, "seed": 0, "device": "cpu"}
    first = cached(model, corpus, "gram", "math", **asked, progress=silent)

    def never(stage: str, done: float, total: float, unit: str = "") -> None:
        raise AssertionError("collected again")

    again = cached(model, corpus, "gram", "math", **asked, progress=never)
    assert first.folder == again.folder and first.fingerprint == again.fingerprint
    other = cached(model, corpus, "gram", "code", **asked, progress=silent)
    assert other.folder != first.folder and sorted((tmp_path / "statistics").iterdir()) == sorted(
        [first.folder, other.folder]
    )


def test_the_cache_knows_a_model_by_its_tokenizer_too(qwen2: str, corpus: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    shutil.copytree(qwen2, folder)
    asked: dict[str, Any] = {"samples": 2, "seed": 0, "device": "cpu", "progress": silent}
    first = cached(open_checkpoint(str(folder)), corpus, "gram", "math", **asked)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    tokens = content["model"]["vocab"]
    tokens["2"], tokens["x"] = tokens["x"], tokens["2"]
    file.write_text(json.dumps(content), encoding="utf-8")
    assert cached(open_checkpoint(str(folder)), corpus, "gram", "math", **asked).fingerprint != first.fingerprint


def test_of_two_processes_that_collect_the_same_both_have_it(
    qwen2: str, corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another_is_done_first(folder: Path, meta: Any) -> None:
        write_meta(folder, meta)
        [name] = folder.name.removeprefix(".").split(".")[:1]
        shutil.copytree(folder, folder.with_name(name))

    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path))
    monkeypatch.setattr(sys.modules["nmerge_core.calibration.collect"], "write_meta", another_is_done_first)
    given: dict[str, Any] = {"samples": 2, "seed": 0, "device": "cpu", "progress": silent}
    assert cached(open_checkpoint(qwen2), corpus, "magnitude", "math", **given).meta["texts"] == 2
